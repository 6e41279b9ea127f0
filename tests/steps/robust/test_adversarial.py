"""Adversarial steps: weights, the answer of an optimum, and the plain limit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.losses import kl_dro_weights
from lostjax.steps import (
    AttackedBatch,
    Barrier,
    barrier_ascent,
    init_adversarial,
    make_adversarial_step,
    max_ball,
    projected_ascent,
    respond_at,
    weigh_alike,
    weigh_hard,
)

GENERATOR = np.random.default_rng(0)
X = jnp.asarray(GENERATOR.uniform(size=(6, 5)), jnp.float32)
SIGNS = jnp.asarray([1.0, -1, 1, -1, 1, 1])
PARAMS = {"w": jnp.asarray(GENERATOR.normal(size=5), jnp.float32)}
BATCH = AttackedBatch(X, SIGNS, jax.random.key(0))
BARRIER = Barrier(radius=0.2, weight=0.05)
TX = optax.sgd(1.0)


def wrongness(params, x, batch):
    """Linear in the inputs, so that one step of the barrier ascent is exact."""
    return -batch.targets * (x @ params["w"])


def losses_of(params, x, batch):
    return jax.nn.softplus(wrongness(params, x, batch))


def stay(value_of, x, key):
    return x


def within(value_of, x, key):
    return barrier_ascent(value_of, x, barrier=BARRIER, n_steps=1)


def gradient_of(step, state=None):
    """Read the gradient off a step of plain descent at rate 1."""
    state = init_adversarial(PARAMS, TX) if state is None else state
    after, _ = step(state, BATCH)
    return np.asarray(state.params["w"] - after.params["w"])


def optimum(params):
    """The optimum of the barrier, as a function that autodiff sees."""
    low = jnp.maximum(-BARRIER.radius, -X)
    high = jnp.minimum(BARRIER.radius, 1 - X)
    g = -SIGNS[:, None] * params["w"]
    # Stationarity: g t^2 + 2 c t = g b^2 around the middle of the box.
    b = (high - low) / 2
    root = jnp.sqrt(BARRIER.weight**2 + (g * b) ** 2)
    return X + (low + high) / 2 + (root - BARRIER.weight) / g


@pytest.mark.parametrize("temperature", [np.inf, 0.5])
def test_the_gradient_is_that_through_the_exact_optimum(temperature):
    def value(params):
        losses_B = losses_of(params, optimum(params), BATCH)
        if np.isinf(temperature):
            return losses_B.mean()
        return temperature * jax.nn.logsumexp(losses_B / temperature)

    through = np.asarray(jax.grad(value)(PARAMS)["w"])
    build = partial(
        make_adversarial_step,
        losses_of,
        TX,
        attack=within,
        ascended_of=wrongness,
        weigh=weigh_hard(temperature=temperature),
    )
    answered = gradient_of(build(respond=respond_at(BARRIER)))
    np.testing.assert_allclose(answered, through, rtol=2e-3, atol=1e-4)
    assert np.abs(gradient_of(build()) - through).max() > 0.01


def test_hard_examples_count_as_the_worst_case_says_over_the_first_batch():
    losses_B = jnp.array([0.1, 3.0, 200.0, 199.0])
    state = init_adversarial(PARAMS, TX)
    weighed = weigh_hard(temperature=1.0)(losses_B, state)
    np.testing.assert_allclose(
        weighed.weights_B, kl_dro_weights(losses_B, temperature=1.0), rtol=1e-4
    )
    broken = weigh_hard(temperature=1.0)(losses_B.at[0].set(jnp.nan), state)
    assert np.isnan(broken.weights_B).all()


def test_the_normaliser_is_a_running_mean():
    weigh = weigh_hard(temperature=2.0, new_share=0.3)
    state = init_adversarial(PARAMS, TX)
    expected = None
    for seed in range(4):
        losses_B = np.random.default_rng(seed).exponential(size=5)
        mean = np.exp(losses_B / 2).mean()
        expected = mean if expected is None else 0.7 * expected + 0.3 * mean
        weighed = weigh(jnp.asarray(losses_B, jnp.float32), state)
        np.testing.assert_allclose(np.exp(weighed.log_mean), expected, rtol=1e-5)
        np.testing.assert_allclose(
            weighed.weights_B, np.exp(losses_B / 2) / expected / 5, rtol=1e-5
        )
        state = state._replace(log_mean=weighed.log_mean, step=state.step + 1)
    batch = weigh_hard(temperature=2.0, new_share=1.0)(weighed.weights_B, state)
    np.testing.assert_allclose(batch.weights_B.sum(), 1.0, rtol=1e-5)


def test_a_warm_up_weighs_alike_and_remembers():
    weigh = weigh_hard(temperature=1.0, warm_up=2)
    state, losses_B = init_adversarial(PARAMS, TX), jnp.array([0.0, 1.0])
    early = weigh(losses_B, state._replace(step=jnp.int32(1)))
    late = weigh(losses_B, state._replace(step=jnp.int32(2)))
    np.testing.assert_array_equal(early.weights_B, weigh_alike(losses_B, state)[0])
    assert float(late.weights_B[1]) > 0.7
    np.testing.assert_allclose(early.log_mean, late.log_mean)


def test_metrics_are_of_the_moved_inputs_and_of_who_counts():
    attack = lambda value_of, x, key: projected_ascent(  # noqa: E731
        value_of, x, ball=max_ball(0.1), step_size=0.05, n_steps=3, key=key
    )
    step = make_adversarial_step(
        losses_of, TX, attack=attack, weigh=weigh_hard(temperature=1.0)
    )
    _, metrics = jax.jit(step)(init_adversarial(PARAMS, TX), BATCH)
    assert 0 < float(metrics["counted"]) < 1
    clean = float(losses_of(PARAMS, X, BATCH).mean())
    assert float(metrics["loss"]) > clean


def test_numbers_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="temperature=0: must be positive"):
        weigh_hard(temperature=0)
    with pytest.raises(ValueError, match="new_share=0: must be positive"):
        weigh_hard(temperature=1, new_share=0)
