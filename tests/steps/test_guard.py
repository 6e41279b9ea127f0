"""The guard: which updates are taken, and that nothing else moves when one is not."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.errors import ConfigError
from lostjax.steps.guard import Guard, count_update, init_guard, is_fit, update_if
from lostjax.steps.objective import Term
from lostjax.train import rollback
from lostjax.train.build import programs
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import prepare_job
from lostjax.train.build.programs import compile_steps
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import (
    FrugalConfig,
    GuardConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrajectoryConfig,
)
from lostjax.train.devices.sharding import place_batch
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.log.json_lines import CLOCK_FIELDS, read_metrics
from lostjax.train.session import train
from lostjax.train.watch.stop_report import EXIT_CODE, STOPPED_FILE

BATCH = 4
FAULT = ("nan", "inf", "gradient")


def fault_term(bad_steps, kind):
    """A term of the objective that is nothing but at some steps, counted from 0.

    `nan` and `inf` make the objective so and the gradient not a number; `gradient`
    leaves all values finite, and makes the gradient of the head alone infinite.
    """
    value = {"nan": jnp.nan, "inf": jnp.inf, "gradient": 0.0}[kind]

    def values(state, prepared, targets_BT, logits_BTV):
        is_bad = jnp.isin(state.step, jnp.asarray(bad_steps))
        mean_BT = jnp.mean(logits_BTV, axis=-1)
        if kind == "gradient":
            # The square root's slope at zero is infinite, its value zero.
            zero_BT = jnp.where(is_bad, mean_BT - jax.lax.stop_gradient(mean_BT), 1.0)
            return jnp.sqrt(zero_BT) - jnp.where(is_bad, 0.0, 1.0)
        return mean_BT * jnp.where(is_bad, value, 0.0)

    return Term(values, lambda step: 1.0)


@pytest.fixture
def inject(monkeypatch, plain_report):
    """Let training steps fail: inject(steps from 0, kind)."""
    build = programs.build_terms

    def begin(bad_steps, kind="nan"):
        def build_terms(*arguments, **options):
            terms = dict(build(*arguments, **options))
            return terms | {"fault": fault_term(bad_steps, kind)}

        monkeypatch.setattr(programs, "build_terms", build_terms)

    return begin


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    """A text of about twenty rows: it comes again after five steps of four."""
    folder = tmp_path_factory.mktemp("guarded")
    words = "We hold these truths to be self-evident, that all are created equal. "
    (folder / "text.txt").write_text(words * 8)
    (folder / "heldout.txt").write_text(words[::-1] * 4)
    preset = get_preset("smoke")
    return dataclasses.replace(
        preset,
        steps=16,
        batch_size=BATCH,
        mesh="data:1",
        checkpoint_every=5,
        model=ModelConfig(
            d_model=16, n_layers=2, n_heads=2, d_hidden=24, rank=4, delta=0.25
        ),
        data=dataclasses.replace(
            preset.data,
            source=str(folder / "text.txt"),
            heldout=str(folder / "heldout.txt"),
            cache_dir=str(cache_dir),
            seq_len=24,
        ),
    )


SAF = ObjectiveConfig(trajectory=TrajectoryConfig(name="saf", lag_epochs=1, top_k=16))
MESA = ObjectiveConfig(trajectory=TrajectoryConfig(name="mesa", decay=0.8))
LAGGED = ObjectiveConfig(trajectory=TrajectoryConfig(name="lagged", lag_steps=2))
FRUGAL = OptimConfig(name="frugal", frugal=FrugalConfig(update_gap=3))
KINDS = {
    "frugal, mesa, micro-batches": {
        "optim": FRUGAL, "objective": MESA, "accumulate": 2,
    },
    "adamw, saf, mesh": {"mesh": "data:4", "objective": SAF},
}  # fmt: skip
ALONE = {
    "adamw": {},
    "frugal": {"optim": FRUGAL},
    "galore": {"optim": dataclasses.replace(FRUGAL, name="galore")},
    "muon": {"optim": OptimConfig(name="muon")},
    "schedule_free": {"optim": OptimConfig(name="schedule_free")},
    "sam": {"objective": ObjectiveConfig(sam_radius=0.05)},
    "lagged": {"objective": LAGGED},
    "mesa": {"objective": MESA},
    "saf": {"objective": SAF},
    "fsdp": {"mesh": "data:2,fsdp:2", "optim": FRUGAL},
}


def make_steps(config):
    """Compile a run; gives its first state, and (state) -> state, metrics."""
    run = prepare_job(config)
    state = start_state(run)
    step = compile_steps(run, state).train

    def advance(state):
        number = int(state.step)
        batch = place_batch(run.data.train, number, mesh=run.mesh)
        # The step takes its argument's buffers.
        return jax.device_get(step(jax.tree.map(jnp.copy, state), batch))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return state, lambda state: advance(jax.tree.map(jax.device_put, state, shardings))


def assert_same(ours, theirs):
    paths = jax.tree_util.tree_leaves_with_path(ours)
    for (path, leaf), other in zip(paths, jax.tree.leaves(theirs), strict=True):
        assert np.asarray(leaf).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(leaf, other, jax.tree_util.keystr(path))


def all_finite(tree):
    return all(
        np.isfinite(leaf).all()
        for leaf in map(np.asarray, jax.tree.leaves(tree))
        if leaf.dtype.kind == "f"
    )


@pytest.mark.parametrize(
    "name", [*KINDS, *(pytest.param(name, marks=pytest.mark.torture) for name in ALONE)]
)
def test_a_bad_step_moves_nothing_but_the_step(config, inject, name):
    """Two bad steps, the second where subspaces are chosen and rows come again."""
    bad = (2, 6)
    inject(bad, FAULT[len(name) % len(FAULT)])
    state, advance = make_steps(dataclasses.replace(config, **(KINDS | ALONE)[name]))
    state = jax.device_get(state)
    for number in range(9):
        after, metrics = advance(state)
        skipped = number in bad
        assert metrics["skipped"] == skipped and after.step == number + 1
        assert metrics["skipped_total"] == sum(b <= number for b in bad)
        ours, theirs = (
            (each.params, each.opt_state, each.memory) for each in (state, after)
        )
        if skipped:
            assert_same(ours, theirs)
        else:
            changed = [
                not np.array_equal(a, b)
                for a, b in zip(
                    jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
                )
            ]
            assert sum(changed) > len(changed) / 3
        assert all_finite(theirs)
        state = after


def run_in(config, directory, **changes):
    made = dataclasses.replace(config, run_dir=str(directory), **changes)
    return train(made, command="", started=0.0)


def lines_of(directory):
    return [
        {name: value for name, value in line.items() if name not in CLOCK_FIELDS}
        for line in read_metrics(directory)
    ]


def final_state(config, directory):
    run = prepare_job(dataclasses.replace(config, run_dir=str(directory)))
    with open_checkpoints(directory / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        return checkpoints.restore(run.abstract, step=step, mesh=run.mesh)


def test_a_run_goes_on_past_bad_steps_and_resumes_bit_for_bit(
    config, inject, tmp_path, capsys
):
    """It is stopped within a streak, and with a window of losses half full."""
    inject((3, 8, 9, 10))
    guard = GuardConfig(patience=5, spike="skip", sigma=3.0, window=6)
    config = dataclasses.replace(config, guard=guard, checkpoint_every=10)
    outcome = run_in(config, tmp_path / "whole")
    assert outcome.exit_code == 0
    said = capsys.readouterr().out
    assert said.count("the update is skipped") == 2
    assert "updates not taken" in said and "skipped" in said
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "16")
    run_in(config, tmp_path / "cut")
    whole, cut = lines_of(tmp_path / "whole"), lines_of(tmp_path / "cut")
    np.testing.assert_equal(whole, cut)
    assert [line["step"] for line in whole if line["skipped"]] == [4, 9, 10, 11]
    rates = [line["learning_rate"] for line in whole]
    assert rates[3] == rates[4] and rates[8] == rates[9] == rates[10] == rates[11]
    assert_same(
        final_state(config, tmp_path / "whole"), final_state(config, tmp_path / "cut")
    )
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "updates not taken" in report


@pytest.mark.parametrize(
    "kind, culprit",
    [
        ("gradient", "the gradient of head"),
        pytest.param(
            "nan",
            "the term fault of the objective, nan",
            marks=pytest.mark.torture,
        ),
    ],
)
def test_a_streak_stops_the_run_with_a_report(
    config, inject, tmp_path, capsys, monkeypatch, kind, culprit
):
    """Of a run that has passed over three batches."""

    def start_late(run):
        state = start_state(run)
        return state._replace(offset=jnp.full_like(state.offset, 3))

    monkeypatch.setattr(rollback, "start_state", start_late)
    inject(tuple(range(7, 16)), kind)
    guard = GuardConfig(patience=4)
    outcome = run_in(config, tmp_path / "run", guard=guard)
    assert outcome.exit_code == EXIT_CODE != 0
    said = capsys.readouterr().err
    assert "4 updates in a row were skipped, the first at step 8" in said
    found = json.loads((tmp_path / "run" / STOPPED_FILE).read_text())
    assert (found["first_step"], found["last_step"]) == (8, 11)
    assert found["first_to_go_bad"].startswith(culprit)
    assert found["bad_outputs"] == []
    bad = found["bad_gradients"]
    assert bad[0].startswith("head") and bad[-1].startswith("embed")
    plan = prepare_job(dataclasses.replace(config, run_dir=None)).data.train
    batch = plan.batch_at(7 + 3)
    assert [row["example"] for row in found["examples"]] == batch.example_B.tolist()
    assert [row["epoch"] for row in found["examples"]] == batch.epoch_B.tolist()
    assert f"{batch.example_B[0]} (epoch {batch.epoch_B[0]})" in said
    with open_checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.all_steps() == [5, 10]
    lines = lines_of(tmp_path / "run")
    assert len(lines) in (11, 12)
    assert {line["passed_over"] for line in lines} == {3}


def judge_all(guard, losses):
    @jax.jit
    def judge(state, loss):
        taken = is_fit(guard, state, loss=loss, norm=jnp.float32(1.0))
        return taken, count_update(guard, state, taken=taken, loss=loss)

    state, taken = init_guard(), []
    for loss in losses:
        decision, state = judge(state, jnp.float32(loss))
        taken.append(bool(decision))
    return taken, state


def test_after_its_patience_no_update_is_taken():
    losses = [1.0, math.nan, 1.0, math.nan, math.inf, math.nan, 1.0, 1.0]
    taken, state = judge_all(Guard(patience=3), losses)
    assert taken == [True, False, True, False, False, False, False, False]
    assert (state.skipped, state.in_a_row) == (6, 5)
    taken, state = judge_all(Guard(), losses)
    assert taken == [math.isfinite(loss) for loss in losses] and state.in_a_row == 0


def test_updates_that_are_not_finite_are_not_taken_where_they_are_looked_at():
    tx = optax.stateless(lambda grads, params: jax.tree.map(jnp.log, grads))
    params = {"a": jnp.ones(2)}
    for grad, taken in ((1.0, True), (0.0, False)):
        made = update_if(
            jnp.bool(True),
            tx,
            grads={"a": jnp.full(2, grad)},
            opt_state=tx.init(params),
            params=params,
            check_updates=True,
        )
        assert made.taken == taken
        np.testing.assert_array_equal(made.params["a"], params["a"])
        np.testing.assert_array_equal(made.updates["a"], 0)


def test_the_window_is_that_of_the_losses_before():
    """Against NumPy: the first `window` losses, and the exponential window after."""
    losses = np.random.default_rng(0).normal(5.0, 0.5, 60)
    taken, state = judge_all(Guard(sigma=100.0, window=20), losses)
    assert all(taken)
    mean, variance = losses[:20].mean(), losses[:20].var()
    for loss in losses[20:]:
        new = mean + (loss - mean) / 20
        variance += ((loss - mean) * (loss - new) - variance) / 20
        mean = new
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-4)


def test_spikes_are_not_taken_and_hardly_move_the_window():
    losses = np.random.default_rng(1).normal(5.0, 0.1, 40)
    losses[[10, 30, 35]] = 9.0, 9.0, math.nan
    taken, state = judge_all(Guard(sigma=6.0, window=20), losses)
    # The tenth comes before the window is full: it is a loss as others.
    assert np.flatnonzero(~np.array(taken)).tolist() == [35]
    losses[10] = 5.0
    taken, state = judge_all(Guard(sigma=6.0, window=20), losses)
    assert np.flatnonzero(~np.array(taken)).tolist() == [30, 35]
    assert abs(state.mean - 5) < 0.1 and state.skipped == 2 and state.losses == 20


def test_a_loss_that_stays_higher_becomes_the_usual_one():
    losses = np.random.default_rng(2).normal(5.0, 0.1, 200)
    losses[100:] += 3.0
    taken, _ = judge_all(Guard(sigma=6.0, window=50), losses)
    late = np.flatnonzero(~np.array(taken))
    assert late[0] == 100 and late[-1] < 115


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patience": -1}, "--guard.patience=-1: must be at least 0"),
        ({"window": 1}, "--guard.window=1: must be at least 2"),
        ({"sigma": 0.0}, "--guard.sigma=0.0: must be positive"),
        ({"sigma": math.nan}, "--guard.sigma=nan: must be positive"),
    ],
)
def test_what_no_guard_can_be_is_refused(config, changes, message):
    guard = GuardConfig(**changes)
    with pytest.raises(ConfigError, match=message):
        prepare_job(dataclasses.replace(config, guard=guard))
