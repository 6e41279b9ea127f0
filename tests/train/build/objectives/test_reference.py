"""Tokens weighed by another run: the weights, the resume, and what is refused."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lostjax
from lostjax.data import load_saved_tokenizer, load_tokenizer, save_tokenizer
from lostjax.errors import ConfigError
from lostjax.losses import surprisal_weights
from lostjax.nn import count_flops
from lostjax.train.__main__ import parse_command
from lostjax.train.build.initial import check_origin
from lostjax.train.build.job import prepare_job
from lostjax.train.build.objectives.reference import check_reference
from lostjax.train.build.programs import build_weighing
from lostjax.train.config.presets import get_preset
from lostjax.train.config.stored import save_config
from lostjax.train.devices.sharding import place_batch
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.keep.directory import hold_run_dir
from lostjax.train.report.forecast import count_step_bytes
from lostjax.train.report.ledger import build_ledger
from lostjax.train.trial import run_trial

FLAG = "--objective.token-weights.reference"


def make_run(directory, config):
    """Write a run whose checkpoint of step 4 knows its text; that of 2 is another."""
    trial = run_trial(config)
    job = dataclasses.replace(trial.job, directory=directory)
    with (
        hold_run_dir(directory, job.config, identity=job.data.identity, needed=0),
        open_checkpoints(directory / "checkpoints", keep=9) as checkpoints,
    ):
        save_tokenizer(job.data.tokenizer, directory)
        for step in (2, 4):
            params = jax.tree.map(lambda x, by=step / 4: by * x, trial.state.params)
            step_of = jnp.full_like(trial.state.step, step)
            state = trial.state._replace(params=params, step=step_of)
            checkpoints.save(state, step=step)
            checkpoints.wait()
    return directory


@pytest.fixture(scope="module")
def config(text_file, cache_dir, tmp_path_factory):
    """LOST by FRUGAL with SAF, on text of a few rows that come again and again."""
    folder = tmp_path_factory.mktemp("text")
    text = text_file.read_text()
    (folder / "text.txt").write_text(text[:1500])
    (folder / "heldout.txt").write_text(text[1500:2200])
    return lostjax.train.preset(
        "smoke",
        steps=8,
        batch_size=8,
        checkpoint_every=4,
        **{
            "mesh": "data:1",
            "model.n_layers": 1,
            "optim.name": "frugal",
            "optim.frugal.update_gap": 3,
            "data.source": folder / "text.txt",
            "data.heldout": folder / "heldout.txt",
            "data.cache_dir": cache_dir,
            "data.seq_len": 32,
            "data.tokenizer": "bpe:280",
        },
    )


@pytest.fixture(scope="module")
def reference(config, tmp_path_factory):
    """A dense model's run with checkpoints of steps 2 and 4."""
    made = dataclasses.replace(
        config,
        steps=40,
        model=dataclasses.replace(config.model, linear="dense", d_model=16),
        optim=dataclasses.replace(config.optim, name="adamw", learning_rate=0.03),
    )
    return make_run(tmp_path_factory.mktemp("reference") / "run", made)


def weighed(config, reference, **more):
    objective = config.objective
    weights = dataclasses.replace(
        objective.token_weights, reference=reference and str(reference), **more
    )
    return dataclasses.replace(
        config, objective=dataclasses.replace(objective, token_weights=weights)
    )


def test_factors_are_those_of_the_references_probabilities(config, reference):
    job = prepare_job(weighed(config, reference, alpha=0.7, min_weight=0.2))
    plain = place_batch(job.data.train, 3, mesh=job.mesh)
    batch = build_weighing(job)(plain)
    there = lostjax.train.load(reference)
    logits_BTV = jax.jit(there.model.apply)(
        there.variables,
        plain.tokens_BT,
        segments_BT=plain.segments_BT,
        positions_BT=plain.positions_BT,
    )
    expected_BT = surprisal_weights(
        logits_BTV,
        plain.targets_BT,
        alpha=0.7,
        min_weight=0.2,
        weights=plain.weights_BT,
    )
    np.testing.assert_allclose(batch.factors_BT, expected_BT, rtol=1e-4, atol=1e-5)
    assert np.std(batch.factors_BT) > 0.05
    for name in ("tokens_BT", "weights_BT", "example_B"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(plain, name))


@pytest.fixture(scope="module")
def whole(config, reference):
    """All of them together: LOST, FRUGAL, SAF, KL-DRO's rows and weighed tokens."""
    words = [
        "--objective.trajectory=saf",
        "--objective.trajectory.lag-epochs=1",
        "--objective.trajectory.start=1",
        "--objective.trajectory.top-k=8",
        "--objective.reweight=kl_dro",
        "--objective.reweight.temperature=0.5",
        "--objective.reweight.warmup=0.25",
    ]
    given = parse_command(["--preset=smoke", *words]).config.objective
    return weighed(dataclasses.replace(config, objective=given), reference)


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(whole):
    alone = run_trial(whole)
    spread = dataclasses.replace(whole, mesh="data:2,fsdp:2,tensor:2", accumulate=2)
    np.testing.assert_allclose(run_trial(spread).losses, alone.losses, rtol=1e-5)
    assert alone.losses[-1] < alone.losses[0]


def read_state(directory, step):
    there = lostjax.train.load(directory, step=step)
    return jax.tree.leaves(there.variables)


def test_a_run_resumes_bit_for_bit_with_the_same_reference_alone(
    whole, reference, tmp_path, plain_report, compile_once, capsys
):
    moved = tmp_path / "reference"
    shutil.copytree(reference, moved)
    run = tmp_path / "run"
    config = dataclasses.replace(weighed(whole, moved), run_dir=str(run), keep=2)
    made = lostjax.train.run(config)
    settled = made.config.objective.token_weights
    assert settled.step == 4 and len(settled.digest) == 32
    assert "is not finished; this run keeps to its step 4" in capsys.readouterr().err
    uninterrupted = read_state(run, 8)
    # As if it had been killed after step 4.
    shutil.rmtree(run / "checkpoints" / "8")
    (run / "report.html").unlink()
    resumed = [f"--resume={run}"]
    shutil.rmtree(moved / "checkpoints" / "4")
    gone = f"{FLAG}=.*has checkpoints of steps 2; the run began with its step 4"
    with pytest.raises(ConfigError, match=gone):
        prepare_job(parse_command(resumed).config)
    shutil.copytree(moved / "checkpoints" / "2", moved / "checkpoints" / "4")
    with pytest.raises(ConfigError, match=r"4: is another checkpoint; .* resumes with"):
        prepare_job(parse_command(resumed).config)
    shutil.rmtree(moved)
    with pytest.raises(ConfigError, match="not a run's directory .*; the run began"):
        prepare_job(parse_command(resumed).config)
    # What evaluates or continues text needs no reference.
    assert len(read_state(run, 4)) == len(uninterrupted)
    elsewhere = parse_command([*resumed, f"{FLAG}={reference}"]).config
    lostjax.train.run(elsewhere)
    jax.tree.map(np.testing.assert_array_equal, read_state(run, 8), uninterrupted)
    # The command line of the first start, repeated, is the same run.
    job = prepare_job(weighed(config, reference))
    assert job.config.objective.token_weights.digest == settled.digest


def test_a_dry_run_lists_the_reference(config, reference):
    job = prepare_job(weighed(config, reference))
    (row,) = [row for row in build_ledger(job) if "reference" in row.name]
    there = lostjax.train.load(reference)
    assert row.model == sum(x.nbytes for x in jax.tree.leaves(there.variables))
    plain = prepare_job(config)
    assert count_step_bytes(job) - count_step_bytes(plain) == row.model
    forward = job.flops_per_token - plain.flops_per_token
    assert forward == count_flops(there.model, length=32).forward


@pytest.mark.parametrize(
    "words, message",
    [
        (["--objective.token-weights.step=3"], "has checkpoints of steps 2, 4"),
        (["--data.tokenizer=bytes"], r"\(280 tokens there, 257 here\)"),
        (["--objective.label-smoothing=0.1"], "label-smoothing=0.1: not with"),
        (["--objective.token-weights.alpha=-1"], "alpha=-1.0: must be 0 or positive"),
        (["--objective.token-weights.min-weight=2"], "min-weight=2.0: must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, config, reference):
    given = parse_command(["--preset=smoke", f"{FLAG}={reference}", *words]).config
    tokenizer = config.data.tokenizer
    if any("tokenizer" in word for word in words):
        tokenizer = given.data.tokenizer
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    asked = dataclasses.replace(given, data=data, mesh="data:1", steps=4)
    with pytest.raises(ConfigError, match=message):
        prepare_job(asked)


def test_the_latest_run_can_be_the_reference(reference, tmp_path, monkeypatch):
    shutil.copytree(reference, tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    weights = parse_command([f"{FLAG}=latest"]).config.objective.token_weights
    assert weights.reference == "runs/one"


def test_bytes_are_the_same_tokenizer_in_every_run(config, reference, tmp_path):
    """Although their saved form is one of another kind."""
    save_config(tmp_path / "config.json", get_preset("smoke"))
    ours = load_tokenizer("bytes")
    save_tokenizer(ours, tmp_path)
    check_reference(weighed(config, tmp_path), ours)
    check_origin(dataclasses.replace(config, init_from=str(tmp_path)), ours)
    with pytest.raises(ConfigError, match=r"tokenizer=.*/tokenizer.json would train"):
        check_reference(weighed(config, tmp_path), load_saved_tokenizer(reference))


def test_a_damaged_reference_is_refused_before_anything_is_written(
    config, reference, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(reference, broken)
    files = (broken / "checkpoints" / "4" / "model").rglob("*")
    largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    asked = dataclasses.replace(weighed(config, broken), run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"checkpoints/4: is damaged: model/"):
        prepare_job(asked)
    assert not (tmp_path / "run").exists()
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="not a run's directory"):
            prepare_job(weighed(config, place))
    with pytest.raises(ConfigError, match="step=4: needs --objective.token-weights"):
        prepare_job(weighed(config, None, step=4))
