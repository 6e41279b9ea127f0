"""Discrete-time survival against Kaplan and Meier, the formula, and bad times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from lostjax.losses import DiscreteTimes, discretize_times, hazard_loss, survival_curve

EDGES = [0.0, 1.0, 3.0, 5.0]
loss = jax.jit(lambda z, bins, events: hazard_loss(z, bins, events=events))


def test_the_likelihood_is_that_of_pycox():
    """Values of pycox 0.3's nll_logistic_hazard for the same hazards."""
    logits = jnp.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
    found = loss(logits, jnp.array([1, 2]), jnp.array([1, 0]))
    np.testing.assert_allclose(found, [1.0064, 3.7942], atol=5e-5)
    np.testing.assert_allclose(found.mean(), 2.400280, rtol=1e-6)


def test_the_likelihood_is_the_log_of_the_probability_of_what_was_seen():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 4)).astype(np.float32)
    bins, events = rng.integers(0, 4, 8), rng.random(8) < 0.5
    hazard = expit(logits.astype(float))
    curve = np.concatenate([np.ones((8, 1)), np.cumprod(1 - hazard, axis=1)], axis=1)
    row = np.arange(8)
    likelihood = np.where(
        events, curve[row, bins] * hazard[row, bins], curve[row, bins + 1]
    )
    found = loss(jnp.array(logits), jnp.array(bins), jnp.array(events))
    np.testing.assert_allclose(found, -np.log(likelihood), rtol=1e-5)
    found = jax.jit(survival_curve)(jnp.array(logits))
    np.testing.assert_allclose(found, curve[:, 1:], rtol=1e-5)


def test_without_covariates_the_best_hazards_are_those_of_kaplan_and_meier():
    rng = np.random.default_rng(1)
    bins, events = rng.integers(0, 3, 60), rng.random(60) < 0.6
    dead = np.array([np.sum(events & (bins == t)) for t in range(3)])
    at_risk = np.array([np.sum(bins >= t) for t in range(3)])
    best = jnp.array(np.log(dead / (at_risk - dead)), jnp.float32)
    gradient = jax.jit(
        jax.grad(
            lambda z: jnp.sum(
                hazard_loss(
                    jnp.broadcast_to(z, (60, 3)),
                    jnp.array(bins),
                    events=jnp.array(events),
                )
            )
        )
    )(best)
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_what_comes_after_does_not_matter():
    logits = jnp.array([[0.5, jnp.nan, jnp.inf], [0.5, 1.0, 2.0]])
    of = jax.jit(jax.value_and_grad(lambda z: loss(z, bins, events).sum()))
    bins, events = jnp.array([0, 0]), jnp.array([True, False])
    value, gradient = of(logits)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[:, 1:], 0)


def test_times_belong_to_the_bin_that_they_end_in():
    times = np.array([0.5, 1.0, 1.001, 3.0, 5.0, 5.001, 99.0], np.float32)
    events = np.array([1, 1, 0, 1, 1, 1, 0])
    found = discretize_times(times, events=events, edges=EDGES)
    assert isinstance(found, DiscreteTimes) and found.bins.dtype == jnp.int32
    np.testing.assert_array_equal(found.bins, [0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(found.events, [1, 1, 0, 1, 1, 0, 0])
    days = discretize_times(np.array([1, 2]), events=events[:2], edges=EDGES)
    np.testing.assert_array_equal(days.bins, [0, 1])


def test_bad_times_edges_and_events_are_named():
    good = np.ones(2, np.float32)
    for bad in (0.0, -1.0, np.nan):
        times = np.array([1.0, bad], np.float32)
        with pytest.raises(ValueError, match=f"times: holds {bad}, must be above"):
            discretize_times(times, events=np.ones(2, int), edges=EDGES)
    for edges in ([1.0], [0.0, 2.0, 1.0], [0.0, 0.0], [0.0, np.nan]):
        with pytest.raises(ValueError, match=r"edges=.*two or more increasing"):
            discretize_times(good, events=np.ones(2, int), edges=edges)
    with pytest.raises(ValueError, match="events: holds 2, must be 0 or 1"):
        discretize_times(good, events=np.full(2, 2), edges=EDGES)
    with pytest.raises(ValueError, match=r"bins: holds 3, must lie in \[0, 3\)"):
        hazard_loss(jnp.zeros((1, 3)), jnp.array([3]), events=jnp.array([1]))


def test_a_traced_time_that_cannot_be_makes_the_loss_nan():
    @jax.jit
    def of(times):
        events = jnp.ones(times.shape, bool)
        found = discretize_times(times, events=events, edges=EDGES)
        return hazard_loss(jnp.zeros((4, 3)), found.bins, events=found.events)

    values = of(jnp.array([0.0, jnp.nan, -1.0, 2.0]))
    assert np.isnan(values).tolist() == [True, True, True, False]
    assert np.isnan(loss(jnp.zeros((1, 3)), jnp.array([3]), jnp.array([1]))[0])
