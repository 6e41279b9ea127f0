"""Reweighted steps: an oracle's gradient, accumulation, meshes, and the warm-up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.data import Batch
from lostjax.losses import next_token_loss
from lostjax.steps.gradient import make_gradient
from lostjax.steps.step import make_train_step
from lostjax.steps.terms import log_partition_term
from lostjax.train.build.objectives.reweighting import SHAPES, build_reweighting
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import ModelConfig, ObjectiveConfig, ReweightConfig
from lostjax.train.trial import run_trial

MODEL = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_hidden=64, linear="dense")
LENGTHS = np.array([16, 1, 9, 2, 16, 3, 5, 0])
LIN_UPPER = ReweightConfig(name="lin_upper", temperature=0.3, warmup=0.0)


def make_batch():
    """Rows of very different numbers of tokens, one of none; and of difficulty."""
    tokens_BT = jax.random.randint(jax.random.key(1), (8, 17), 0, 32)
    ones_BT = jnp.ones((8, 16), jnp.int32)
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=jnp.asarray(np.arange(16) < LENGTHS[:, None], jnp.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1) - 1,
        example_B=jnp.arange(8),
        epoch_B=jnp.zeros(8, jnp.int32),
    )


def step_once(start, reweight, *, accumulate=1, log_partition=0.0, at=0, steps=10):
    model, tx, state = start(MODEL, rate=1.0)
    gradient = make_gradient(
        model,
        accumulate=accumulate,
        terms={"log_partition": log_partition_term(log_partition)},
        reweight=build_reweighting(reweight, steps=steps),
    )
    step = make_train_step(gradient, tx)
    return jax.jit(step)(state._replace(step=jnp.array(at)), make_batch())


def assert_same_parameters(ours, theirs, **how):
    for a, b in zip(
        jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True
    ):
        np.testing.assert_allclose(a, b, **how)


def test_the_gradient_is_that_of_weighted_row_means(start):
    model, _, state = start(MODEL, rate=1.0)
    batch = make_batch()

    def row_means(params):
        """Of the cross entropy and of the penalty, which is never reweighted."""
        logits = model.apply({"params": params}, batch.tokens_BT)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        values = next_token_loss(logits, batch.targets_BT), log_z**2
        return [(v * batch.weights_BT).sum(axis=1)[:7] / LENGTHS[:7] for v in values]

    losses = np.asarray(row_means(state.params)[0], np.float64)
    h = 2 * (losses - losses.min()) / np.ptp(losses) - 1
    raised = LENGTHS[:7] * np.exp(np.minimum(h + 1, 1) / 0.3)
    weights = raised / raised.sum()

    def minimised(params):
        values, penalties = row_means(params)
        return weights @ values + 0.1 * penalties @ LENGTHS[:7] / LENGTHS.sum()

    gradient = jax.grad(minimised)(state.params)
    expected = state._replace(params=optax.tree.sub(state.params, gradient))
    got, metrics = step_once(start, LIN_UPPER, log_partition=0.1)
    assert_same_parameters(got, expected, rtol=1e-4, atol=2e-6)
    plain = losses @ LENGTHS[:7] / LENGTHS.sum()
    np.testing.assert_allclose(metrics["loss"], plain, rtol=1e-5)


@pytest.mark.parametrize("accumulate, reweight", [(2, "lin_upper"), (4, "quadratic")])
def test_accumulation_equals_the_big_batch(start, accumulate, reweight):
    objective = dataclasses.replace(LIN_UPPER, name=reweight)
    whole, metrics = step_once(start, objective, log_partition=0.01)
    parts, other = step_once(
        start, objective, log_partition=0.01, accumulate=accumulate
    )
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-6)
    assert_same_parameters(whole, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_infinite_temperature_is_the_plain_step(start, accumulate):
    plain, metrics = step_once(start, ReweightConfig(), accumulate=accumulate)
    objective = dataclasses.replace(LIN_UPPER, temperature=float("inf"))
    uniform, other = step_once(start, objective, accumulate=accumulate)
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-7)
    assert_same_parameters(plain, uniform, rtol=1e-6, atol=1e-8)


def test_the_warm_up_is_plain_and_ends(start):
    objective = dataclasses.replace(LIN_UPPER, warmup=0.25)
    plain, _ = step_once(start, ReweightConfig())
    warm, _ = step_once(start, objective, at=2)
    assert_same_parameters(plain, warm, rtol=1e-6, atol=1e-8)
    hot, _ = step_once(start, objective, at=3)
    expected, _ = step_once(start, LIN_UPPER)
    assert_same_parameters(hot, expected, rtol=1e-6, atol=1e-8)
    heads = hot.params["head"]["kernel"], plain.params["head"]["kernel"]
    assert not np.allclose(*heads, rtol=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_factors_average_to_one_over_tokens(name):
    objective = dataclasses.replace(LIN_UPPER, name=name)
    factors = build_reweighting(objective, steps=10)
    values_BT = jax.random.uniform(jax.random.key(2), (8, 16))
    weights_BT = make_batch().weights_BT
    factors_B = np.asarray(factors(values_BT, weights_BT, jnp.array(0)))
    np.testing.assert_allclose(factors_B @ LENGTHS, LENGTHS.sum(), rtol=1e-5)
    assert factors_B[7] == 0.0
    assert np.ptp(factors_B[:7]) > 0.1


def test_kl_dro_weighs_by_the_size_of_a_loss():
    objective = dataclasses.replace(LIN_UPPER, name="kl_dro", temperature=0.5)
    factors = build_reweighting(objective, steps=10)
    weights_BT = make_batch().weights_BT
    values_BT = jnp.arange(8.0)[:, None] * jnp.ones((8, 16)) / 4
    factors_B = np.asarray(factors(values_BT, weights_BT, jnp.array(0)))
    np.testing.assert_allclose(factors_B @ LENGTHS, LENGTHS.sum(), rtol=1e-5)
    # Of its own length or another, a row counts e times one of half a nat less.
    np.testing.assert_allclose(factors_B[2:7] / factors_B[:5], np.e, rtol=1e-4)
    assert factors_B[7] == 0.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_factors_of_tokens_weigh_cross_entropies_alone(start, accumulate):
    """Also those that the rows' factors are computed from."""
    model, tx, state = start(MODEL, rate=1.0)
    factors_BT = jax.random.uniform(jax.random.key(3), (8, 16), maxval=2.0)
    plain = make_batch()
    batch = plain._replace(factors_BT=factors_BT)
    counts_BT = plain.weights_BT * factors_BT

    def minimised(params):
        logits = model.apply({"params": params}, batch.tokens_BT)
        values_BT = next_token_loss(logits, batch.targets_BT)
        penalties_BT = jnp.square(jax.nn.logsumexp(logits, axis=-1))
        rows_B = (counts_BT * values_BT).sum(1) / jnp.maximum(counts_BT.sum(1), 1e-9)
        prior_B = counts_BT.sum(1)
        share_B = prior_B / prior_B.sum()
        factors_B = jax.lax.stop_gradient(prior_B * jnp.exp(rows_B - rows_B.max()))
        factors_B = factors_B / factors_B.sum() / jnp.where(share_B, share_B, 1.0)
        whole = (factors_B[:, None] * counts_BT * values_BT).sum()
        whole += 0.1 * (plain.weights_BT * penalties_BT).sum()
        return whole / plain.weights_BT.sum()

    kl_dro = dataclasses.replace(LIN_UPPER, name="kl_dro", temperature=1.0)
    gradient = make_gradient(
        model,
        accumulate=accumulate,
        terms={"log_partition": log_partition_term(0.1)},
        reweight=build_reweighting(kl_dro, steps=10),
    )
    made = jax.jit(gradient)(state, batch)
    expected = jax.jit(jax.grad(minimised))(state.params)
    for a, b in zip(
        jax.tree.leaves(made.grads), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
    # The reported loss is that of plain tokens.
    unweighed = jax.jit(gradient)(state, plain).means["loss"]
    np.testing.assert_allclose(made.means["loss"], unweighed, rtol=1e-6)


def test_none_is_no_reweighting():
    assert build_reweighting(ReweightConfig(), steps=10) is None


def test_meshes_and_accumulation_compute_what_one_device_does(text_file, cache_dir):
    preset = get_preset("smoke")
    data = dataclasses.replace(
        preset.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=32
    )
    config = dataclasses.replace(
        preset,
        model=MODEL,
        data=data,
        mesh="data:1",
        steps=10,
        objective=ObjectiveConfig(reweight=LIN_UPPER),
    )
    alone = run_trial(config)
    spread = dataclasses.replace(config, mesh="data:2,fsdp:2", accumulate=2)
    trial = run_trial(spread)
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)
