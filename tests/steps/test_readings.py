"""Watched steps: readings against NumPy, the step unchanged, alarms and their file."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import Batch
from lostjax.steps.gradient import make_gradient
from lostjax.steps.readings import Readings, headline
from lostjax.steps.step import make_train_step
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import ModelConfig, OptimConfig, StabilityConfig
from lostjax.train.log.alarms import find_alarms
from lostjax.train.log.json_lines import read_metrics
from lostjax.train.log.readings import StabilityLog, read_stability
from lostjax.train.session import train

MODEL = ModelConfig(
    d_model=16, n_layers=2, n_heads=2, d_hidden=32, linear="lost", rank=4, delta=0.25
)


def make_batch():
    """Two documents a row, the last row padding."""
    tokens_BT = jax.random.randint(jax.random.key(1), (4, 9), 0, 32)
    segments_BT = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]] * 3 + [[0] * 8])
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=(segments_BT > 0).astype(jnp.float32),
        segments_BT=segments_BT,
        positions_BT=jnp.array([[0, 1, 2, 0, 1, 2, 3, 4]] * 4),
        example_B=jnp.arange(4),
        epoch_B=jnp.zeros(4, jnp.int32),
    )


@pytest.fixture(scope="module")
def step(start):
    """Run one SGD step of a model; compiled once for each set of options."""
    model, tx, state = start(MODEL, rate=0.5)
    done = {}

    def run(**options):
        key = tuple(options.items())
        if key not in done:
            step = jax.jit(make_train_step(make_gradient(model, **options), tx))
            done[key] = (state, *step(state, make_batch()))
        return done[key]

    return run


def test_a_watched_step_is_the_same_step(step):
    _, plain, metrics = step()
    _, watched, other = step(watch=True)
    assert "readings" not in metrics
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other[name], rtol=1e-6)
    for ours, theirs in zip(
        jax.tree.leaves(plain.params), jax.tree.leaves(watched.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_micro_batches_give_the_readings_of_the_whole(step):
    whole, parts = (step(watch=True, accumulate=n)[2]["readings"] for n in (1, 2))
    assert whole.attention_logits.shape == (MODEL.n_layers,)
    for ours, theirs in zip(
        jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_rms_of_tensors_are_by_path_and_by_layer(step):
    start, _, metrics = step(watch=True)
    readings = metrics["readings"]
    expected = {
        "embed/embedding": start.params["embed"]["embedding"],
        "layers/mlp/up/a": start.params["layers"]["mlp"]["up"]["a"],
    }
    got = readings.parameter_rms
    table = np.asarray(expected["embed/embedding"], np.float64)
    np.testing.assert_allclose(
        got["embed/embedding"], np.sqrt((table**2).mean()), rtol=1e-6
    )
    a_LMR = np.asarray(expected["layers/mlp/up/a"], np.float64)
    np.testing.assert_allclose(
        got["layers/mlp/up/a"], np.sqrt((a_LMR**2).mean(axis=(1, 2))), rtol=1e-6
    )
    for path, gradient in readings.gradient_rms.items():
        # SGD at a rate of .5.
        np.testing.assert_allclose(readings.update_rms[path], gradient / 2, rtol=1e-5)
    norm2 = sum(
        np.sum(np.square(rms)) * leaf.size / max(rms.size, 1)
        for rms, leaf in zip(
            readings.gradient_rms.values(), jax.tree.leaves(start.params), strict=True
        )
    )
    np.testing.assert_allclose(np.sqrt(norm2), metrics["gradient_norm"], rtol=1e-5)


def rotated(x_TK, positions_T):
    half = x_TK.shape[-1] // 2
    angles = positions_T[:, None] / 1e4 ** (np.arange(half) / half)
    left, right = x_TK[:, :half], x_TK[:, half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=1)


def test_attention_logits_and_log_z_equal_numpy(start):
    config = dataclasses.replace(MODEL, linear="dense", n_layers=1)
    model, tx, state = start(config, rate=0.5, seed=3)
    params = jax.tree.map(lambda x: 8 * x, state.params)
    batch = make_batch()
    step = jax.jit(make_train_step(make_gradient(model, watch=True), tx))
    _, metrics = step(state._replace(params=params), batch)
    numbers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    layer = jax.tree.map(lambda x: x[0], numbers["layers"])
    x_BTD = numbers["embed"]["embedding"][np.asarray(batch.tokens_BT)]
    x_BTD = x_BTD / np.sqrt((x_BTD**2).mean(axis=-1, keepdims=True) + 1e-6)
    x_BTD = x_BTD * layer["attention_norm"]["scale"]
    largest = 0.0
    positions_T = np.asarray(batch.positions_BT[0])
    for x_TD, segments_T in zip(x_BTD, np.asarray(batch.segments_BT), strict=True):
        for head in (slice(0, 8), slice(8, 16)):
            q_TK, k_TK = (
                rotated((x_TD @ layer["attention"][n]["kernel"])[:, head], positions_T)
                for n in ("q", "k")
            )
            seen = np.tril(segments_T[:, None] == segments_T[None])
            largest = max(largest, np.abs(q_TK @ k_TK.T)[seen].max() / np.sqrt(8))
    np.testing.assert_allclose(
        metrics["readings"].attention_logits, [largest], rtol=1e-4
    )
    logits_BTV = jax.jit(model.apply)(
        {"params": params},
        batch.tokens_BT,
        segments_BT=batch.segments_BT,
        positions_BT=batch.positions_BT,
    )
    z = np.log(np.exp(np.asarray(logits_BTV, np.float64)).sum(-1))[:3].mean()
    np.testing.assert_allclose(metrics["readings"].mean_log_z, z, rtol=1e-5)


def readings(logits=(1.0, 2.0), gradients=1e-3):
    rms = {"embed/embedding": np.float32(gradients), "layers/a": np.array([1.0, 1.0])}
    return Readings(np.array(logits), np.float32(3.0), rms, rms, rms)


def alarms_of(readings, *, eps=1e-8, clip=1.0, norm=0.5):
    return find_alarms(
        readings, optim=OptimConfig(eps=eps, clip=clip), gradient_norm=norm
    )


def test_a_healthy_step_raises_no_alarm():
    assert alarms_of(readings()) == {}
    assert headline(readings()) == {
        "mean_log_z": 3.0,
        "smallest_gradient_rms": pytest.approx(1e-3),
        "max_attention_logit": 2.0,
    }


@pytest.mark.parametrize("logit", [1001.0, np.inf, np.nan])
def test_attention_logits_out_of_bounds_are_an_alarm(logit):
    alarms = alarms_of(readings(logits=[1.0, logit, 2.0]))
    assert set(alarms) == {"logits"}
    assert "layer 1" in alarms["logits"] and "--model.qk-norm" in alarms["logits"]


def test_gradients_near_epsilon_are_an_alarm():
    assert not alarms_of(readings(gradients=1.1e-7))
    alarms = alarms_of(readings(gradients=0.9e-7))
    assert set(alarms) == {"gradients"} and "embed/embedding" in alarms["gradients"]
    # What Adam sees is clipped first.
    assert alarms_of(readings(gradients=1.1e-7), norm=2.0)
    assert not alarms_of(readings(gradients=1.1e-7), norm=2.0, clip=0.0)
    assert "1 others" in alarms_of(readings(), eps=1.0)["gradients"]
    signs = OptimConfig(name="sign_sgd", eps=1.0)  # has no epsilon
    assert not find_alarms(readings(), optim=signs, gradient_norm=0.5)


def test_an_alarm_is_said_when_it_begins(tmp_path):
    said = []
    log = StabilityLog(
        tmp_path, resume_step=0, optim=OptimConfig(clip=1.0), say=said.append
    )
    for step, logit in enumerate([1.0, 2e3, 3e3, 1.0, np.nan], 1):
        log.write(step, readings(logits=[logit]), gradient_norm=0.5)
    log.close()
    assert [line.partition("  ")[0] for line in said] == ["step 2", "step 5"]
    lines = (tmp_path / "stability.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == 5 and last["attention_logits"] == [None]
    assert last["gradient_rms"]["layers/a"] == [1.0, 1.0]
    logged = read_stability(
        tmp_path, optim=OptimConfig(), gradient_norms=dict.fromkeys(range(1, 6), 0.5)
    )
    assert [line.step for line in logged if line.alarms] == [2, 3, 5]
    assert "reach 2e+03 in layer 0" in logged[1].alarms["logits"]
    assert np.isnan(logged[4].readings.attention_logits).all()
    np.testing.assert_array_equal(logged[4].readings.update_rms["layers/a"], [1, 1])
    # A run that goes on from step 3, or goes back to step 2, writes the rest anew.
    log = StabilityLog(tmp_path, resume_step=3, optim=OptimConfig(), say=said.append)
    assert (tmp_path / "stability.jsonl").read_text().splitlines() == lines[:3]
    log.go_back(2)
    log.write(3, readings(logits=[3e3]), gradient_norm=0.5)
    log.close()
    assert (tmp_path / "stability.jsonl").read_text().splitlines() == lines[:3]
    assert said[-1].startswith("step 3  alarm:")


def test_clipping_is_counted_in_the_alarm(tmp_path):
    said = []
    log = StabilityLog(
        tmp_path, resume_step=0, optim=OptimConfig(clip=1.0), say=said.append
    )
    log.write(1, readings(gradients=5e-7), gradient_norm=1.0)
    assert not said
    log.write(2, readings(gradients=5e-7), gradient_norm=100.0)
    assert len(said) == 1
    log.close()


@pytest.mark.usefixtures("plain_report")
def test_a_run_writes_its_readings(text_file, cache_dir, tmp_path, capsys):
    preset = get_preset("smoke")
    config = dataclasses.replace(
        preset,
        model=MODEL,
        mesh="data:1",
        steps=5,
        run_dir=str(tmp_path / "run"),
        stability=StabilityConfig(every=2),
        optim=dataclasses.replace(preset.optim, eps=1.0),
        data=dataclasses.replace(
            preset.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=32
        ),
    )
    train(config, command="", started=0.0)
    lines = (tmp_path / "run" / "stability.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert len(json.loads(lines[0])["attention_logits"]) == MODEL.n_layers
    metrics = read_metrics(tmp_path / "run")
    watched = [line["step"] for line in metrics if "max_attention_logit" in line]
    assert watched == [2, 4] and len(metrics) == 5
    assert capsys.readouterr().out.count("alarm: gradients of") == 1
