"""Ascents of inputs and parameters: closed forms, bounds, and a planted weakness."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from lostjax.steps import (
    Barrier,
    ascend,
    barrier_ascent,
    euclidean_ball,
    max_ball,
    move,
    projected_ascent,
    square_attack,
)

RADIUS = 0.1
GENERATOR = np.random.default_rng(0)
# Pixels at both ends, too: the box of an input is cut off there.
X = jnp.asarray(np.clip(GENERATOR.uniform(-0.2, 1.2, (4, 3, 3)), 0, 1), jnp.float32)
SLOPE = jnp.asarray(GENERATOR.normal(size=(3, 3)), jnp.float32)


def linear(x):
    return jnp.sum(x * SLOPE, axis=(1, 2))


@pytest.mark.parametrize("n_steps, restarts", [(1, 1), (10, 3)])
def test_in_the_max_ball_a_linear_value_is_largest_at_a_corner(n_steps, restarts):
    found = jax.jit(
        partial(
            projected_ascent,
            linear,
            ball=max_ball(RADIUS),
            step_size=3 * RADIUS,
            n_steps=n_steps,
            restarts=restarts,
        )
    )(X, key=jax.random.key(0))
    expected = np.clip(X + RADIUS * np.sign(SLOPE), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_in_the_euclidean_ball_it_is_largest_along_the_slope():
    x = jnp.full((4, 3, 3), 0.5)
    found = projected_ascent(
        linear,
        x,
        ball=euclidean_ball(RADIUS),
        step_size=1e4,
        n_steps=2,
        key=jax.random.key(0),
    )
    expected = x + RADIUS * SLOPE / jnp.linalg.norm(SLOPE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("ball", [max_ball, euclidean_ball])
def test_every_start_is_in_the_ball(ball):
    x = jnp.full((400, 2, 2), 0.5)
    d = ball(RADIUS).draw(jax.random.key(0), x)
    norms = {
        max_ball: jnp.max(jnp.abs(d), axis=(1, 2)),
        euclidean_ball: jnp.linalg.norm(d.reshape(400, -1), axis=1),
    }[ball]
    assert float(norms.max()) <= RADIUS * (1 + 1e-6)
    # Uniform in four dimensions: the median radius is r / 2^(1/4).
    np.testing.assert_allclose(jnp.median(norms), RADIUS / 2**0.25, rtol=0.05)
    np.testing.assert_allclose(d.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(ball(RADIUS).project(d), d, rtol=1e-6)
    np.testing.assert_array_equal(ball(RADIUS).steepest(jnp.zeros((1, 2, 2))), 0)


def test_of_all_restarts_the_best_is_kept_by_what_picks():
    """A value with a maximum at each end: which one is found depends on the start."""
    x = jnp.full((64, 1), 0.5)
    run = partial(
        projected_ascent,
        lambda x: jnp.square(x - 0.5)[:, 0],
        x,
        ball=max_ball(RADIUS),
        step_size=RADIUS,
        n_steps=5,
        key=jax.random.key(1),
    )
    once = np.asarray(run())
    assert 10 < (once > 0.5).sum() < 54
    picked = run(restarts=12, pick_of=lambda x: x[:, 0])
    np.testing.assert_allclose(picked, 0.6, atol=1e-6)


def test_a_value_that_is_nan_is_not_hidden():
    def value_of(x):
        return jnp.where(x[:, 0] > 0.5, jnp.nan, x[:, 0])

    found = projected_ascent(
        value_of,
        jnp.full((8, 1), 0.5),
        ball=max_ball(RADIUS),
        step_size=RADIUS,
        n_steps=1,
        restarts=9,
        key=jax.random.key(0),
    )
    assert np.isnan(value_of(found)).all()


def minus_barrier(d, slope, low, high):
    return -(slope * d + 0.01 * (np.log(high - d) + np.log(d - low)))


def test_the_barriers_optimum_is_that_of_scipy():
    barrier = Barrier(RADIUS, 0.01)
    found = np.asarray(barrier_ascent(linear, X, barrier=barrier, n_steps=1))
    for x, slope, moved in zip(
        np.asarray(X, float).ravel(),
        np.tile(np.asarray(SLOPE, float).ravel(), 4),
        found.ravel(),
        strict=True,
    ):
        low, high = max(-RADIUS, -x), min(RADIUS, 1 - x)
        best = minimize_scalar(
            minus_barrier,
            args=(slope, low, high),
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-9},
        )
        np.testing.assert_allclose(moved - x, best.x, atol=1e-5)


def test_a_small_weight_is_the_corner_and_a_large_one_the_middle():
    small, large = (
        barrier_ascent(linear, X, barrier=Barrier(RADIUS, weight), n_steps=4)
        for weight in (1e-9, 1e6)
    )
    corner = np.clip(X + RADIUS * np.sign(SLOPE), 0, 1)
    np.testing.assert_allclose(small, corner, atol=1e-5)
    middle = (np.clip(X - RADIUS, 0, 1) + np.clip(X + RADIUS, 0, 1)) / 2
    np.testing.assert_allclose(large, middle, atol=1e-5)


def test_the_barrier_ascends_a_curved_value_to_where_nothing_pulls():
    def value_of(x):
        return jnp.sum(jnp.sin(3 * x) * SLOPE, axis=(1, 2))

    barrier = Barrier(RADIUS, 0.01)
    x = barrier_ascent(value_of, X, barrier=barrier, n_steps=300)
    middle, half = barrier.middle(X)
    t = x - X - middle
    assert (jnp.abs(t) < half).all()
    pull = 0.01 * (1 / (half - t) - 1 / (half + t))
    slope = jax.grad(lambda x: value_of(x).sum())(x)
    np.testing.assert_allclose(pull, slope, atol=0.02)
    # Its curvature is the pull's derivative.
    eps = 1e-3
    up, down = (0.01 * (1 / (half - s) - 1 / (half + s)) for s in (t + eps, t - eps))
    inner = np.abs(t) < 0.5 * half
    slopes = ((up - down) / (2 * eps))[inner]
    np.testing.assert_allclose(barrier.curvature(X, x)[inner], slopes, rtol=0.01)


def margin(weak, x):
    """Rises as one pixel of each image falls, in steps: its gradient is 0."""
    return -jnp.floor(20 * x[jnp.arange(len(x)), weak, 2 - weak])


def test_the_square_attack_finds_a_weakness_that_has_no_gradient():
    x, weak = jnp.full((3, 3, 3), 0.51), jnp.arange(3)
    value_of = partial(margin, weak)
    attack = partial(
        square_attack, value_of, x, radius=RADIUS, n_queries=60, key=jax.random.key(0)
    )
    found = jax.jit(attack)()
    np.testing.assert_allclose(jnp.abs(found - x), RADIUS, atol=1e-6)
    np.testing.assert_allclose(value_of(found), -8.0)
    blind = projected_ascent(
        value_of,
        x,
        ball=max_ball(RADIUS / 10),
        step_size=RADIUS,
        n_steps=5,
        key=jax.random.key(0),
    )
    assert (value_of(blind) < -8.0).all()


def test_the_square_attack_never_makes_it_worse_and_stays_inside():
    start = square_attack(linear, X, radius=RADIUS, n_queries=1, key=jax.random.key(3))
    later = square_attack(
        linear, X, radius=RADIUS, n_queries=300, key=jax.random.key(3)
    )
    later = np.asarray(later)
    assert later.min() >= 0 and later.max() <= 1
    assert np.abs(later - X).max() <= RADIUS * (1 + 1e-6)
    assert later.shape == start.shape
    # A linear value of nine pixels: its squares come near its largest.
    best = linear(jnp.clip(X + RADIUS * jnp.sign(SLOPE), 0, 1)) - linear(X)
    assert (linear(later) - linear(X) > 0.6 * best).all()


def test_numbers_outside_their_range_are_refused():
    run = partial(
        projected_ascent,
        linear,
        X,
        ball=max_ball(0.1),
        step_size=1,
        key=jax.random.key(0),
    )
    with pytest.raises(ValueError, match="n_steps=0: must be positive"):
        run(n_steps=0)
    with pytest.raises(ValueError, match="restarts=0: must be positive"):
        run(n_steps=1, restarts=0)
    with pytest.raises(ValueError, match="barrier.weight=0: must be positive"):
        barrier_ascent(linear, X, barrier=Barrier(0.1, 0), n_steps=1)
    square = partial(square_attack, linear, X, radius=0.1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="n_queries=0: must be positive"):
        square(n_queries=0)
    with pytest.raises(ValueError, match=r"share=2.0: must lie in \(0, 1\]"):
        square(n_queries=1, share=2.0)


def test_parameters_ascend_by_the_radius_over_all_of_them_together():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.zeros((1,))}
    gradients = {"a": jnp.array([0.0, 3.0]), "b": jnp.array([-4.0])}
    moved = ascend(params, gradients, radius=0.5)
    assert moved["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(moved["a"].astype(float), [1.0, 1.3], rtol=1e-2)
    np.testing.assert_allclose(moved["b"], [-0.4], rtol=1e-6)
    back = move(params, gradients, scale=jnp.float32(-0.1))
    np.testing.assert_allclose(back["b"], [0.4], rtol=1e-6)
    none = jax.tree.map(jnp.zeros_like, gradients)
    slopes = jax.grad(lambda g: ascend(params, g, radius=0.5)["b"][0])(none)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    np.testing.assert_array_equal(ascend(params, none, radius=0.5)["b"], [0.0])
