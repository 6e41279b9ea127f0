"""Generalised cross entropy: both limits, its bound, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.losses import generalized_cross_entropy_loss as loss

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)) * 3, jnp.float32)
LABELS = jnp.array([0, 3, 2, 1, 0])


def test_it_is_cross_entropy_at_a_small_q_and_the_absolute_error_at_1():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(loss(LOGITS, LABELS, q=1e-6), plain, rtol=1e-4)
    p_BV = jax.nn.softmax(LOGITS)
    absolute = jnp.abs(p_BV - jax.nn.one_hot(LABELS, 4)).sum(-1) / 2
    np.testing.assert_allclose(loss(LOGITS, LABELS, q=1), absolute, rtol=1e-5)


def test_its_gradient_is_that_of_cross_entropy_times_the_probability_to_the_q():
    ours = jax.grad(lambda x: loss(x, LABELS, q=0.7).sum())(LOGITS)
    plain = optax.softmax_cross_entropy_with_integer_labels
    theirs = jax.grad(lambda x: plain(x, LABELS).sum())(LOGITS)
    p_B = jax.nn.softmax(LOGITS)[jnp.arange(5), LABELS]
    np.testing.assert_allclose(ours, theirs * p_B[:, None] ** 0.7, rtol=1e-4, atol=1e-6)


def test_it_is_bounded_and_finite_where_a_probability_vanishes():
    logits = jnp.array([[0.0, 1000.0]])
    value, gradient = jax.value_and_grad(
        lambda x: loss(x, jnp.array([0]), q=0.5).sum()
    )(logits)
    assert float(value) == pytest.approx(2.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_mistakes_are_named_or_visible():
    for q in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"q={q}: must"):
            loss(LOGITS, LABELS, q=q)
    with pytest.raises(ValueError, match=r"labels: holds 4, must lie in \[0, 4\)"):
        loss(LOGITS, LABELS.at[0].set(4), q=0.7)
    traced = jax.jit(lambda labels: loss(LOGITS, labels, q=0.7))
    found = traced(LABELS.at[0].set(4).at[1].set(-1))
    np.testing.assert_array_equal(np.isnan(found), [1, 1, 0, 0, 0])
