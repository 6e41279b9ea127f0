"""The factored output layer is dense gradient descent, step by step and after many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.losses import LogitSums, z_loss_from_sums
from lostjax.optim import factored_output

V, D, B, K, STEPS = 40, 6, 5, 2, 500
RATE = 0.1
forward = jax.jit(factored_output.forward)
RNG = np.random.default_rng(0)
WEIGHTS = jnp.array(0.3 * RNG.normal(size=(V, D)) + 0.1, jnp.float32)
X = jnp.array(RNG.normal(size=(STEPS, B, D)), jnp.float32)
TARGETS = RNG.integers(0, V, size=(STEPS, B, K))
TARGETS[:, 0] = 3  # a class twice in a row,
TARGETS[:, 1, 1] = 3  # and of two examples
TARGETS = jnp.array(TARGETS)


def loss(sums):
    """A loss of all three numbers, and of two targets with different slopes."""
    z = LogitSums(sums.targets_BK[:, 0], sums.total_B, sums.squares_B)
    other = 0.3 * jnp.square(sums.targets_BK[:, 1]) + 0.01 * sums.squares_B
    return jnp.mean(
        z_loss_from_sums(z, n_classes=V, shift=3.0) + other + 1e-3 * sums.total_B**2
    )


def factored_step(state, x, targets, decay):
    sums = factored_output.forward(state, x, targets_BK=targets)
    return factored_output.backward_update(
        state,
        x,
        targets_BK=targets,
        slopes=jax.grad(loss)(sums),
        learning_rate=RATE,
        weight_decay=decay,
    )


def dense_step(weights, x, targets, decay):
    def of(weights, x):
        logits = x @ weights.T
        own = jnp.take_along_axis(logits, targets, axis=-1)
        return loss(
            factored_output.Sums(own, logits.sum(-1), jnp.square(logits).sum(-1))
        )

    slope, slope_x = jax.grad(of, argnums=(0, 1))(weights, x)
    return weights - RATE * (slope + decay * weights), slope_x


@jax.jit
def train(decay):
    """Both, side by side; the last gradients by x as well."""

    def step(both, given):
        state, weights = both
        (state, slope), (weights, expected) = (
            of(each, *given, decay)
            for of, each in ((factored_step, state), (dense_step, weights))
        )
        return (state, weights), (slope, expected)

    start = factored_output.init(WEIGHTS), WEIGHTS
    end, slopes = jax.lax.scan(step, start, (X, TARGETS))
    return *end, *(slope[-1] for slope in slopes)


def relative(found, expected):
    expected = np.asarray(expected, float)
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


@pytest.fixture(scope="module", params=[0.0, 0.01], ids=["plain", "decay"])
def trained(request):
    return train(request.param)


def test_many_steps_are_those_of_dense_gradient_descent(trained):
    state, weights, slope, expected = trained
    assert relative(weights, WEIGHTS) > 0.3, "it must have moved"
    assert relative(factored_output.dense_weights(state), weights) < 1e-5
    assert relative(slope, expected) < 1e-5


def test_what_follows_from_the_weights_follows_them(trained):
    state, weights, *_ = trained
    assert relative(state.gram_DD, weights.T @ weights) < 1e-5
    assert relative(state.total_D, weights.sum(0)) < 1e-5
    assert np.linalg.cond(state.mix_DD) > 1.5
    np.testing.assert_allclose(state.inverse_DD.T @ state.mix_DD, np.eye(D), atol=1e-5)


def test_stabilising_changes_the_factors_and_not_the_weights(trained):
    state, *_ = trained
    steady = jax.jit(factored_output.stabilise)(state)
    np.testing.assert_array_equal(steady.mix_DD, np.eye(D))
    np.testing.assert_array_equal(steady.shift_D, 0)
    before, after = map(factored_output.dense_weights, (state, steady))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


def test_a_centred_layer_has_rows_of_mean_0_and_the_same_z_loss():
    state = factored_output.init(WEIGHTS + 2)
    centred = jax.jit(factored_output.centre)(state)
    weights = factored_output.dense_weights(centred)
    np.testing.assert_allclose(weights.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(centred.gram_DD, weights.T @ weights, atol=1e-3)
    np.testing.assert_array_equal(centred.total_D, 0)
    sums = [
        forward(each, X[0], targets_BK=TARGETS[0, :, :1]) for each in (state, centred)
    ]
    first, second = (
        z_loss_from_sums(
            LogitSums(each.targets_BK[:, 0], each.total_B, each.squares_B),
            n_classes=V,
        )
        for each in sums
    )
    np.testing.assert_allclose(second, first, rtol=1e-3)


def test_a_class_that_does_not_exist_shows():
    state = factored_output.init(WEIGHTS)
    targets = jnp.array([[0, V], [-1, 1]])
    found = forward(state, X[0, :2], targets_BK=targets)
    assert np.isnan(found.targets_BK).tolist() == [[False, True], [True, False]]
