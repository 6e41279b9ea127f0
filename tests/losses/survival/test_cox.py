"""Cox's likelihood and Breslow's baseline, against scikit-survival's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.losses import breslow_survival, set_cox_loss

TIMES = jnp.array([3.0, 1.0, 2.0, 2.0, 5.0, 4.0])
EVENTS = jnp.array([1, 0, 1, 1, 0, 1])
loss = jax.jit(lambda r, t=TIMES, e=EVENTS: set_cox_loss(r, t, events_B=e))


def survive(risks, horizons):
    return jax.jit(breslow_survival)(
        risks, horizons, train_risks_B=risks, times_B=TIMES, events_B=EVENTS
    )


def test_the_loss_is_the_mean_over_events_of_the_formula():
    risks = np.array([0.3, -1.0, 2.0, 0.1, -0.4, 0.7])
    expected = [
        np.log(np.exp(risks[np.asarray(TIMES) >= time]).sum()) - risk
        for time, risk, event in zip(np.asarray(TIMES), risks, EVENTS, strict=True)
        if event
    ]
    np.testing.assert_allclose(loss(jnp.array(risks)), np.mean(expected), rtol=1e-5)
    shifted = loss(jnp.array(risks) + 100)
    np.testing.assert_allclose(shifted, np.mean(expected), rtol=1e-5)


def test_without_covariates_the_survival_is_that_of_nelson_and_aalen():
    horizons = jnp.array([1.0, 2.0, 3.5, 4.0, 9.0])
    hazards = np.array([0, 2 / 5, 2 / 5 + 1 / 3, 2 / 5 + 1 / 3 + 1 / 2])
    expected = np.exp(-hazards[[0, 1, 2, 3, 3]])
    found = survive(jnp.zeros(6), horizons)
    np.testing.assert_allclose(found, np.tile(expected, (6, 1)), rtol=1e-6)


def test_the_coefficient_and_the_curves_are_those_of_scikit_survival():
    """Of scikit-survival 0.28, CoxPHSurvivalAnalysis(ties="breslow"), on these data."""
    x = jnp.array([0.5, -1.0, 1.5, 0.2, -0.3, 0.9])
    coefficient = 1.03945263
    slope = jax.jit(jax.grad(lambda c: loss(c * x)))(coefficient)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    found = survive(coefficient * x, jnp.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(
        found[0], [0.73551308, 0.52410459, 0.31391219], rtol=1e-5
    )


def test_what_is_censored_first_does_not_matter_and_no_event_is_no_loss():
    risks = jnp.array([0.3, jnp.nan, 2.0, 0.1, -0.4, 0.7])
    first = TIMES.at[1].set(0.5)
    value, gradient = jax.jit(jax.value_and_grad(loss))(risks.at[1].set(50.0), first)
    assert np.isfinite(value) and gradient[1] == 0
    value, gradient = jax.jit(
        jax.value_and_grad(lambda r: set_cox_loss(r, TIMES, events_B=jnp.zeros(6, int)))
    )(jnp.zeros(6))
    assert value == 0 and not gradient.any()


def test_large_risks_neither_overflow_nor_vanish():
    risks = jnp.array([90.0, 0.0, -90.0, 0.0, 90.0, 0.0])
    assert np.isfinite(loss(risks))
    found = survive(risks, jnp.array([2.0, 3.0]))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="events_B: holds 2"):
        set_cox_loss(jnp.zeros(6), TIMES, events_B=EVENTS * 2)
    with pytest.raises(ValueError, match="risks_B: .*needs 1 example"):
        set_cox_loss(jnp.zeros(0), TIMES[:0], events_B=EVENTS[:0])
    with pytest.raises(ValueError, match="horizons_H: .*must increase"):
        breslow_survival(
            jnp.zeros(2),
            jnp.array([2.0, 1.0]),
            train_risks_B=jnp.zeros(6),
            times_B=TIMES,
            events_B=EVENTS,
        )
