"""Rises of a quadratic, whose closed forms are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.analysis import ascend, ascent_rise, random_rise

RADIUS = 0.3
N = 12


@pytest.fixture(scope="module")
def quadratic():
    """A positive Hessian, and the loss of a tree of two arrays at its minimum 0."""
    root = np.random.default_rng(0).normal(size=(N, N))
    hessian = root @ root.T / N

    def loss(params):
        w = jnp.concatenate([params["a"].ravel(), params["b"]])
        return 0.5 * w @ jnp.asarray(hessian, w.dtype) @ w + 3.0

    return hessian, loss


def tree(values):
    values = jnp.asarray(values, jnp.float32)
    return {"a": values[:8].reshape(2, 4), "b": values[8:]}


def test_ascent_rise_is_that_of_a_step_up_a_quadratic(quadratic):
    hessian, loss = quadratic
    w = np.linspace(-1, 2, N)
    g = hessian @ w
    norm = np.linalg.norm(g)
    expected = RADIUS * norm + RADIUS**2 * (g @ hessian @ g) / (2 * norm**2)
    got = ascent_rise(loss, tree(w), radius=RADIUS)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_nothing_rises_where_the_gradient_is_zero(quadratic):
    _, loss = quadratic
    assert ascent_rise(loss, tree(np.zeros(N)), radius=RADIUS) == 0


def test_random_rise_is_the_mean_curvature_whatever_the_slope(quadratic):
    hessian, loss = quadratic
    expected = RADIUS**2 * np.trace(hessian) / (2 * N)
    rises = [
        random_rise(
            loss, tree(w), radius=RADIUS, key=jax.random.key(1), n_directions=2000
        )
        for w in (np.zeros(N), np.linspace(-1, 2, N))
    ]
    # A direction's curvature has a standard deviation below the mean: 5 of them.
    np.testing.assert_allclose(rises, expected, rtol=5 / 2000**0.5)
    np.testing.assert_allclose(*rises, rtol=1e-3)


def test_directions_have_the_norm_and_the_key_decides_them():
    def distance(params):
        return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(params)))

    start = tree(np.zeros(N))
    rise = random_rise(distance, start, radius=2.0, key=jax.random.key(0))
    np.testing.assert_allclose(rise, 2.0, rtol=1e-6)

    def first(params):
        return params["b"][0] ** 2

    one, again, other = (
        random_rise(first, start, radius=2.0, key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    assert one == again != other


def test_ascend_keeps_types():
    params = {"a": jnp.ones(3, jnp.bfloat16)}
    moved = ascend(params, {"a": jnp.ones(3)}, radius=1.0)
    assert moved["a"].dtype == jnp.bfloat16 and float(moved["a"][0]) > 1.5


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_is_positive(quadratic, radius):
    _, loss = quadratic
    with pytest.raises(ValueError, match="radius="):
        ascent_rise(loss, tree(np.ones(N)), radius=radius)
    with pytest.raises(ValueError, match="radius="):
        random_rise(loss, tree(np.ones(N)), radius=radius, key=jax.random.key(0))


def test_some_direction_is_needed(quadratic):
    with pytest.raises(ValueError, match="n_directions=0"):
        random_rise(
            quadratic[1], tree(np.ones(N)), radius=1.0, key=jax.random.key(0),
            n_directions=0,
        )  # fmt: skip
