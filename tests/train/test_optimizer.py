"""The optimiser that a configuration describes: decay, epsilon, rates by tensor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.train.config import OptimConfig
from lostjax.train.optimizer import build_optimizer

CONFIG = OptimConfig(learning_rate=1e-2, weight_decay=0.1, warmup=0.25)
STEPS = 8


def path(config, *, gradient, multipliers=None):
    """Train one matrix at a fixed gradient; the weights after every step."""
    tx, schedule = build_optimizer(config, steps=STEPS, multipliers=multipliers)
    params = {"kernel": jnp.ones((2, 2))}
    state, weights = tx.init(params), []
    for _ in range(STEPS):
        grads = {"kernel": jnp.full((2, 2), gradient)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        weights.append(float(params["kernel"][0, 0]))
    return np.array(weights), np.array([float(schedule(t)) for t in range(STEPS)])


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.5])
def test_independent_decay_does_not_know_the_learning_rate(rate):
    config = dataclasses.replace(CONFIG, learning_rate=rate, independent_decay=True)
    weights, rates = path(config, gradient=0.0)
    np.testing.assert_allclose(weights, np.cumprod(1 - 0.1 * rates / rate), rtol=1e-5)


def test_usual_decay_is_per_unit_of_learning_rate():
    weights, rates = path(CONFIG, gradient=0.0)
    np.testing.assert_allclose(weights, np.cumprod(1 - 0.1 * rates), rtol=1e-6)


def test_multipliers_change_the_update_and_not_the_decay():
    config = dataclasses.replace(CONFIG, independent_decay=True)
    still, _ = path(config, gradient=0.0, multipliers={"kernel": 0.25})
    np.testing.assert_array_equal(still, path(config, gradient=0.0)[0])
    free = dataclasses.replace(CONFIG, weight_decay=0.0)
    quarter, rates = path(free, gradient=1.0, multipliers={"kernel": 0.25})
    np.testing.assert_allclose(quarter, 1 - np.cumsum(rates) / 4, rtol=1e-5)


def test_updates_vanish_where_epsilon_exceeds_the_gradients():
    free = dataclasses.replace(CONFIG, weight_decay=0.0)
    steps = {}
    for eps in (1e-15, 1e-8, 1e-4):
        weights, _ = path(dataclasses.replace(free, eps=eps), gradient=1e-8)
        steps[eps] = 1 - weights[0]
    rate = steps[1e-15]
    np.testing.assert_allclose(steps[1e-8], rate / 2, rtol=1e-3)
    assert steps[1e-4] < 1e-3 * rate


def test_the_usual_model_has_no_state_for_multipliers():
    with_them, _ = build_optimizer(CONFIG, steps=STEPS, multipliers={"kernel": 1.0})
    without, _ = build_optimizer(CONFIG, steps=STEPS)
    params = {"kernel": jnp.ones((2, 2))}
    states = [jax.tree.leaves(tx.init(params)) for tx in (with_them, without)]
    assert len(states[0]) == len(states[1])
