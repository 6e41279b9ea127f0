"""SAF, MESA and the lagged copy in real runs, against pasts that are kept by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.errors import ConfigError
from lostjax.losses import trajectory_loss
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import prepare_job
from lostjax.train.build.objectives.trajectory import past_variables
from lostjax.train.build.programs import compile_steps
from lostjax.train.config.fields import replace_in
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import (
    FrugalConfig,
    ModelConfig,
    ObjectiveConfig,
    TrajectoryConfig,
)
from lostjax.train.devices.sharding import place_batch
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.keep.directory import hold_run_dir
from lostjax.train.log.json_lines import read_evaluations, read_metrics
from lostjax.train.report.ledger import build_ledger
from lostjax.train.session import train
from lostjax.train.trial import run_trial
from lostjax.trees import count_bytes

STEPS, BATCH = 14, 8
SAF = ObjectiveConfig(
    trajectory=TrajectoryConfig(name="saf", lag_epochs=2, top_k=257, weight=1.0)
)
MESA = ObjectiveConfig(
    trajectory=TrajectoryConfig(name="mesa", decay=0.8, weight=1.0, start=1.0, end=3.0)
)
LAGGED = ObjectiveConfig(
    trajectory=TrajectoryConfig(name="lagged", lag_steps=4, weight=5.0)
)
PASTS = {"saf": SAF, "mesa": MESA, "lagged": LAGGED}


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    """A text of some twenty rows: fourteen steps of eight go through it five times."""
    folder = tmp_path_factory.mktemp("short")
    words = "We hold these truths to be self-evident, that all are created equal. "
    (folder / "text.txt").write_text(words * 8)
    (folder / "heldout.txt").write_text(words[::-1] * 4)
    preset = get_preset("smoke")
    return dataclasses.replace(
        preset,
        steps=STEPS,
        batch_size=BATCH,
        mesh="data:1",
        checkpoint_every=STEPS // 2,
        # Resuming is then tested of subspaces that rotate, too.
        optim=dataclasses.replace(
            preset.optim, name="frugal", frugal=FrugalConfig(update_gap=4)
        ),
        model=ModelConfig(
            d_model=16, n_layers=1, n_heads=2, d_hidden=24, rank=4, delta=0.25
        ),
        data=dataclasses.replace(
            preset.data,
            source=str(folder / "text.txt"),
            heldout=str(folder / "heldout.txt"),
            cache_dir=str(cache_dir),
            seq_len=24,
        ),
    )


class Run:
    """A run whose state after every step is kept."""

    def __init__(self, config):
        self.job = prepare_job(config)
        self.states = [start_state(self.job)]
        self.step = compile_steps(self.job, self.states[0]).train
        self.metrics = []
        for number in range(config.steps):
            # The step takes its argument's buffers.
            state, metrics = self.advance(jax.tree.map(jnp.copy, self.states[-1]))
            self.states.append(state)
            self.metrics.append({name: float(x) for name, x in metrics.items()})
            assert int(state.step) == number + 1

    def batch(self, number):
        return place_batch(self.job.data.train, number, mesh=self.job.mesh)

    def advance(self, state):
        return jax.block_until_ready(self.step(state, self.batch(int(state.step))))

    def values(self, name):
        return np.array([metrics[name] for metrics in self.metrics])


@pytest.fixture(scope="module", params=PASTS)
def run(request, config):
    """Each kind of past, on one device."""
    return Run(dataclasses.replace(config, objective=PASTS[request.param]))


def only(*names):
    """Take only these kinds of past."""
    return pytest.mark.parametrize("run", names, indirect=True)


@pytest.fixture(scope="module")
def plain(config):
    return Run(config)


def logits_of_all(run):
    """Logits (step, B, T, V) of each batch before its step, and who was in it."""
    model = run.job.model
    apply = jax.jit(
        lambda params, channels, batch: model.apply(
            {"params": params, "channels": channels},
            batch.tokens_BT,
            segments_BT=batch.segments_BT,
            positions_BT=batch.positions_BT,
        )
    )
    batches = [run.batch(number) for number in range(STEPS)]
    return batches, lambda params, number: apply(
        params, run.states[0].channels, batches[number]
    )


def expected_past_logits(run, apply, batches, number):
    """What each row should be compared with and whether it is known, by brute force."""
    objective = run.job.config.objective
    params = [state.params for state in run.states]
    if objective.trajectory.name == "lagged":
        lag = objective.trajectory.lag_steps
        return apply(params[number // lag * lag], number), np.ones(BATCH, bool)
    if objective.trajectory.name == "mesa":
        average = params[0]
        for now in params[1 : number + 1]:
            average = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, average, now)
        return apply(average, number), np.ones(BATCH, bool)
    past, known = np.zeros((BATCH, 24, 257), np.float32), np.zeros(BATCH, bool)
    for b, (row, epoch) in enumerate(zip(*batches[number][-2:], strict=True)):
        for before in range(number):
            for c, there in enumerate(zip(*batches[before][-2:], strict=True)):
                if there == (row, epoch - objective.trajectory.lag_epochs):
                    past[b], known[b] = apply(params[before], before)[c], True
    return past, known


def test_the_metric_is_the_divergence_from_a_past_kept_by_hand(run):
    batches, apply = logits_of_all(run)
    batches = [jax.device_get(batch) for batch in batches]
    expected = []
    for number, batch in enumerate(batches):
        past_BTV, known_B = expected_past_logits(run, apply, batches, number)
        now_BTV = apply(run.states[number].params, number)
        values_BT = trajectory_loss(now_BTV, jnp.asarray(past_BTV))
        values_BT = np.where(known_B[:, None], values_BT, 0)
        expected.append((values_BT * batch.weights_BT).sum() / batch.weights_BT.sum())
    # float16 log-probabilities of the past, in SAF's memory.
    tolerance = 0.02 if run.job.trajectory.track == () else 1e-3
    np.testing.assert_allclose(
        run.values("trajectory"), expected, rtol=tolerance, atol=1e-5
    )
    assert max(expected) > 0.003


@only("saf")
def test_each_row_meets_its_past_once_it_has_one(run):
    n_rows = run.job.data.train.n_rows
    first = 2 * n_rows // BATCH
    assert 3 * n_rows < STEPS * BATCH and not run.values("trajectory")[:first].any()
    assert (run.values("trajectory")[first + 1 :] > 0).all()


def test_before_the_first_divergence_the_run_is_the_plain_run(run, plain):
    n_rows = run.job.data.train.n_rows
    first = {"saf": 2 * n_rows // BATCH, "mesa": -(-n_rows // BATCH), "lagged": 1}
    same = first[run.job.config.objective.trajectory.name] + 1
    ours, theirs = run.values("loss"), plain.values("loss")
    np.testing.assert_allclose(ours[:same], theirs[:same], rtol=1e-6)
    assert abs(ours[-1] - theirs[-1]) > 1e-5


@only("mesa")
def test_after_the_window_the_divergence_is_measured_and_has_no_weight(run):
    weight = run.job.trajectory.weight
    epochs = np.arange(STEPS) * BATCH / run.job.data.train.n_rows
    expected = np.where((epochs >= 1) & (epochs < 3), 1.0, 0.0)
    np.testing.assert_array_equal([weight(step) for step in range(STEPS)], expected)
    assert expected[-1] == 0 and run.values("trajectory")[-1] > 0


@only("saf", "mesa")
def test_a_resumed_run_is_the_same_run_to_the_last_bit(run, tmp_path):
    """Half of the run is left in a directory, as if it had been stopped there."""
    half = STEPS // 2
    config = dataclasses.replace(run.job.config, run_dir=str(tmp_path / "run"))
    directory, identity = tmp_path / "run", run.job.data.identity
    with (
        hold_run_dir(directory, config, identity=identity, needed=0),
        open_checkpoints(directory / "checkpoints", keep=1) as checkpoints,
    ):
        checkpoints.save(run.states[half], step=half)
        checkpoints.wait()
    train(config, command="", started=0.0)
    with open_checkpoints(directory / "checkpoints") as checkpoints:
        state = checkpoints.restore(run.job.abstract, step=STEPS, mesh=run.job.mesh)
    paths = jax.tree_util.tree_leaves_with_path(run.states[-1])
    for (path, ours), theirs in zip(paths, jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=jax.tree_util.keystr(path))
    lines = read_metrics(config.run_dir)
    assert [line["trajectory"] for line in lines] == list(
        run.values("trajectory")[half:]
    )
    (evaluation,) = read_evaluations(config.run_dir)
    is_mesa = run.job.config.objective.trajectory.name == "mesa"
    assert ("eval_past_loss" in evaluation) == is_mesa


@only("saf")
def test_the_memory_is_written_in_place(run):
    n_rows = run.job.data.train.n_rows
    lines = run.step.as_text().splitlines()
    ours = [line for line in lines if f"[{n_rows},2,24" in line]
    assert any("scatter" in line for line in ours)
    assert not [line for line in ours if " copy(" in line]


@only("saf", "mesa")
@pytest.mark.newest
def test_a_mesh_and_micro_batches_compute_the_same(run):
    elsewhere = Run(
        dataclasses.replace(run.job.config, mesh="data:2,fsdp:2", accumulate=2)
    )
    for name in ("loss", "trajectory"):
        np.testing.assert_allclose(
            elsewhere.values(name), run.values(name), rtol=2e-5, atol=1e-6
        )
    if run.states[-1].memory is not None:
        ours, theirs = (each.states[-1].memory for each in (run, elsewhere))
        np.testing.assert_array_equal(ours.written_XS, theirs.written_XS)
        ids = theirs.outputs.ids
        assert ids.addressable_shards[0].data.size * 4 == ids.size


def test_past_passes_and_bytes_are_counted(run, plain):
    kind = run.job.config.objective.trajectory.name
    passes = 1 if kind == "saf" else 4 / 3
    ratio = run.job.flops_per_token / plain.job.flops_per_token
    assert ratio == pytest.approx(passes)
    rows = {row.name: row.model for row in build_ledger(run.job)}
    memory = rows.get("past outputs by row (SAF)")
    n_rows, width = run.job.data.train.n_rows, 257 * 6 + 4
    assert memory == (n_rows * 2 * (24 * width + 4) if kind == "saf" else None)
    copied = count_bytes(run.job.abstract.opt_state) - count_bytes(
        plain.job.abstract.opt_state
    )
    params = count_bytes(plain.job.abstract.params)
    assert copied == (0 if kind == "saf" else params + 4)


def test_the_average_is_evaluated_beside_the_model(config, plain):
    objective = replace_in(MESA, "trajectory", weight=0.0)
    trial = run_trial(dataclasses.replace(config, objective=objective))
    np.testing.assert_allclose(trial.losses, plain.values("loss"), rtol=1e-6)
    assert trial.past_evaluation is not None
    assert trial.past_evaluation.tokens == trial.evaluation.tokens
    assert trial.past_evaluation.loss > trial.evaluation.loss + 0.01


def test_a_run_without_past_parameters_says_so(plain):
    with pytest.raises(ValueError, match="opt_state: holds 0"):
        past_variables(plain.states[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "mesa", "start": 99.0}, "trajectory.start=99.0"),
        ({"name": "saf", "lag_epochs": 9}, "no row is repeated"),
        ({"name": "saf", "top_k": 258}, r"must lie in \[1, 257\]"),
    ],
)
def test_a_past_that_can_never_count_is_refused(config, changes, message):
    objective = ObjectiveConfig(trajectory=TrajectoryConfig(**changes))
    with pytest.raises(ConfigError, match=message):
        prepare_job(dataclasses.replace(config, objective=objective))
