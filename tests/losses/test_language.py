"""Next-token losses against optax, and the one reduction."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.losses import (
    log_partition_penalty,
    next_token_loss,
    smoothing_penalty,
    weighted_mean,
    weighted_sums,
)


@pytest.fixture(scope="module")
def logits_BTV():
    return 5 * jax.random.normal(jax.random.key(0), (3, 4, 11))


def test_next_token_loss_is_optax_cross_entropy(logits_BTV):
    targets_BT = jnp.arange(12).reshape(3, 4) % 11
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits_BTV, targets_BT
    )
    np.testing.assert_allclose(
        next_token_loss(logits_BTV, targets_BT), expected, rtol=1e-6
    )


def test_uniform_logits_cost_log_v():
    loss = next_token_loss(jnp.zeros((2, 7)), jnp.array([0, 6]))
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_bfloat16_logits_are_computed_in_float32(logits_BTV):
    targets_BT = jnp.zeros((3, 4), jnp.int32)
    low = logits_BTV.astype(jnp.bfloat16)
    exact = next_token_loss(low.astype(jnp.float32), targets_BT)
    got = next_token_loss(low, targets_BT)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_and_curvature_are_those_of_optax(logits_BTV, dtype):
    targets_BT = jnp.arange(12).reshape(3, 4) % 11
    weights_BT = jnp.arange(12.0).reshape(3, 4)
    direction = jnp.cos(logits_BTV)

    def of(loss):
        gradient = jax.grad(lambda z: (weights_BT * loss(z, targets_BT)).sum())
        z = logits_BTV.astype(dtype)
        return jax.jvp(gradient, (z,), (direction.astype(dtype),))

    ours = of(next_token_loss)
    theirs = of(
        lambda z, t: optax.losses.softmax_cross_entropy_with_integer_labels(
            z.astype(jnp.float32), t
        )
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 1e-2}
    for got, expected in zip(ours, theirs, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(
            got.astype(jnp.float32), expected.astype(jnp.float32), **tolerance
        )


def test_gradient_is_finite_where_the_target_is_impossible():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    gradient = jax.grad(lambda z: next_token_loss(z, jnp.array([1])).sum())(logits)
    np.testing.assert_allclose(gradient, [[1.0, -1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_smoothing_is_the_cross_entropy_of_smoothed_targets(logits_BTV, share):
    targets_BT = jnp.arange(12).reshape(3, 4) % 11
    weights_BT = jnp.arange(12.0).reshape(3, 4)
    labels = optax.smooth_labels(jax.nn.one_hot(targets_BT, 11), share)

    def ours(z):
        penalty = smoothing_penalty(z, targets_BT)
        return (weights_BT * (next_token_loss(z, targets_BT) + share * penalty)).sum()

    def theirs(z):
        return (weights_BT * optax.losses.softmax_cross_entropy(z, labels)).sum()

    for of in (lambda loss: loss, jax.grad):
        np.testing.assert_allclose(
            of(ours)(logits_BTV), of(theirs)(logits_BTV), rtol=1e-5, atol=1e-5
        )


def test_log_partition_penalty_of_normalised_logits_is_zero(logits_BTV):
    normalised = jax.nn.log_softmax(logits_BTV)
    np.testing.assert_allclose(log_partition_penalty(normalised), 0, atol=1e-10)
    shifted = log_partition_penalty(normalised + 3.0)
    np.testing.assert_allclose(shifted, 9.0, rtol=1e-5)


@hypothesis.given(
    st.lists(
        st.tuples(st.floats(-10, 10, width=32), st.floats(0, 5, width=32)), min_size=1
    )
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_weighted_mean_equals_numpy(pairs):
    values, weights = np.array(pairs, np.float32).T
    if weights.sum() < 1e-3:
        weights = weights + 1
    expected = np.average(values.astype(np.float64), weights=weights)
    got = weighted_mean(jnp.array(values), jnp.array(weights))
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_zero_weight_removes_even_a_nan_and_its_gradient():
    values = jnp.array([1.0, jnp.nan, 3.0])
    weights = jnp.array([1.0, 0.0, 1.0])
    assert weighted_mean(values, weights) == 2.0
    gradient = jax.grad(lambda v: weighted_mean(v, weights))(values)
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


def test_no_weight_at_all_gives_zero():
    assert weighted_mean(jnp.ones(3), jnp.zeros(3)) == 0.0
    total, weight = weighted_sums(jnp.ones(3), jnp.zeros(3))
    assert (total, weight) == (0.0, 0.0)
