"""Sensitivity by hand, the power law against scipy, tree statistics against NumPy."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from lostjax.analysis import (
    fit_logit_growth,
    learning_rate_sensitivity,
    predict_max_logit,
)
from lostjax.trees import tensor_rms

RATES = [1e-3, 1e-2, 1e-1, 1.0]
quick = hypothesis.settings(deadline=None, max_examples=50)


def test_sensitivity_by_hand():
    got = learning_rate_sensitivity(RATES, [2.0, 1.5, 2.5, 9.0], initial_loss=5.0)
    assert got.value == pytest.approx((0.5 + 0.0 + 1.0 + 3.5) / 4)
    assert (got.best_loss, got.best_rate) == (1.5, 1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 5.0, 1e9])
def test_a_run_that_diverged_counts_as_the_initial_loss(bad):
    got = learning_rate_sensitivity(RATES, [2.0, 1.5, 2.5, bad], initial_loss=5.0)
    assert got.value == pytest.approx((0.5 + 0.0 + 1.0 + 3.5) / 4)


def test_equal_losses_are_not_sensitive():
    assert learning_rate_sensitivity(RATES, [2.0] * 4, initial_loss=5.0).value == 0.0


def test_where_nothing_learnt_there_is_no_sensitivity():
    got = learning_rate_sensitivity(RATES, [math.nan] * 4, initial_loss=5.0)
    assert math.isnan(got.value) and math.isnan(got.best_rate) and got.best_loss == 5.0


@hypothesis.given(hnp.arrays(float, 4, elements=st.floats(0, 10)), st.floats(0, 3))
@quick
def test_sensitivity_is_not_negative_and_moves_with_no_shift(losses, shift):
    hypothesis.assume(losses.min() < 4)
    got = learning_rate_sensitivity(RATES, losses, initial_loss=5.0)
    moved = learning_rate_sensitivity(RATES, losses + shift, initial_loss=5.0 + shift)
    assert got.value >= 0
    np.testing.assert_allclose(moved.value, got.value, atol=1e-12)


@pytest.mark.parametrize(
    "rates, losses, initial, message",
    [
        ([0.1], [1.0], 5.0, "learning_rates"),
        ([0.1, 0.1], [1.0, 2.0], 5.0, "learning_rates"),
        ([0.1, 0.0], [1.0, 2.0], 5.0, "learning_rates=0"),
        ([0.1, math.nan], [1.0, 2.0], 5.0, "learning_rates=nan"),
        ([[0.1, 0.2]], [1.0, 2.0], 5.0, "learning_rates: must be a sequence"),
        ([0.1, 1.0], [1.0], 5.0, "losses: got 1 for 2"),
        ([0.1, 1.0], [1.0, 2.0], math.inf, "initial_loss=inf"),
    ],
)
def test_what_has_no_sensitivity_is_named(rates, losses, initial, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_sensitivity(np.array(rates), losses, initial_loss=initial)


@hypothesis.given(
    st.floats(-0.5, 2.0),
    st.floats(-10, 3),
    hnp.arrays(float, 5, elements=st.floats(-0.3, 0.3)),
)
@quick
def test_growth_equals_scipys_regression_of_logarithms(exponent, intercept, noise):
    sizes = np.array([1e5, 3e5, 1e6, 1e6, 4e7])
    logits = np.exp(intercept + noise) * sizes**exponent
    growth = fit_logit_growth(sizes, logits)
    line = stats.linregress(np.log(sizes), np.log(logits))
    np.testing.assert_allclose(growth.exponent, line.slope, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(growth.log_coefficient, line.intercept, atol=1e-8)
    left = np.log(logits) - line.intercept - line.slope * np.log(sizes)
    np.testing.assert_allclose(growth.spread**2, np.mean(left**2), atol=1e-10)
    expected = np.exp(line.intercept + line.slope * np.log(4.8e9))
    np.testing.assert_allclose(predict_max_logit(growth, 4.8e9), expected, rtol=1e-6)


def test_two_models_give_their_line_exactly():
    growth = fit_logit_growth([1e6, 4e6], [10.0, 40.0])
    assert growth.exponent == pytest.approx(1.0)
    assert growth.spread == pytest.approx(0.0, abs=1e-12)
    assert predict_max_logit(growth, 1e9) == pytest.approx(1e4)


@pytest.mark.parametrize(
    "sizes, logits, message",
    [
        ([1e6], [1.0], "n_parameters"),
        ([1e6, 1e6], [1.0, 2.0], "n_parameters"),
        ([1e6, -1.0], [1.0, 2.0], "n_parameters=-1"),
        ([1e6, 1e7], [1.0, 0.0], "max_logits=0"),
        ([1e6, 1e7], [1.0, math.inf], "max_logits=inf"),
        ([1e6, 1e7], [1.0], "max_logits: got 1 for 2"),
    ],
)
def test_what_cannot_be_fitted_is_named(sizes, logits, message):
    with pytest.raises(ValueError, match=message):
        fit_logit_growth(sizes, logits)


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_a_size_that_no_model_has_is_named(size):
    growth = fit_logit_growth([1e6, 4e6], [10.0, 40.0])
    with pytest.raises(ValueError, match="n_parameters="):
        predict_max_logit(growth, size)


def test_rms_of_every_tensor_equals_optax_and_numpy():
    keys = jax.random.split(jax.random.key(0))
    tree = {"w": jax.random.normal(keys[0], (3, 4, 5)), "s": jnp.array(-2.0)}
    whole = tensor_rms(tree)
    norm = optax.tree.norm(tree["w"]) / math.sqrt(60)
    np.testing.assert_allclose(whole["w"], norm, rtol=1e-6)
    assert whole["s"] == 2.0
    layers = tensor_rms({"w": tree["w"]}, leading_axes=1)["w"]
    expected = np.sqrt((np.asarray(tree["w"], np.float64) ** 2).mean(axis=(1, 2)))
    np.testing.assert_allclose(layers, expected, rtol=1e-6)


def test_rms_is_taken_in_float32_and_of_nothing_is_zero():
    # 300 squared overflows float16.
    tree = {"half": jnp.full(4, 300, jnp.float16), "none": jnp.zeros((0, 3))}
    got = tensor_rms(tree)
    assert got["half"].dtype == jnp.float32 and got["half"] == 300.0
    assert got["none"] == 0.0


def test_too_few_axes_are_named():
    with pytest.raises(ValueError, match="leading_axes=2"):
        tensor_rms({"w": jnp.ones(3)}, leading_axes=2)
