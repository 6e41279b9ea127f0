"""The step law: each root against another solver, gradients, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from lostjax.analysis.scaling import (
    PowerLaw,
    StepLaw,
    UnidentifiedLaw,
    critical_batch,
    fit_batch_tradeoff,
    fit_critical_batch,
    fit_model_size_law,
    fit_step_curves,
    fit_step_law,
    loss_trajectory,
    min_steps,
    min_tokens,
)

LAW = StepLaw(PowerLaw(8.8e13, 0.076), PowerLaw(55.0, 4.8), PowerLaw(2.1e3, 0.76))
PLACES = [(1e6, 1e3, 1e4), (3.3e10, 1e5, 4e6), (1e6, 1e6, 1e9), (1e5, 1.0, 100.0)]


def root(n_params, steps, batch):
    """Solve for the loss by another method."""

    def excess(loss):
        needed = (LAW.batch.scale / loss) ** LAW.batch.exponent
        least = steps / (1 + needed / batch)
        converged = (LAW.size.scale / n_params) ** LAW.size.exponent
        return converged + (LAW.step.scale / least) ** LAW.step.exponent - loss

    return brentq(excess, 1e-3, 1e6, xtol=1e-14)


@pytest.mark.parametrize("x64, rtol", [(False, 2e-6), (True, 1e-12)])
def test_the_loss_is_the_root_and_so_is_its_slope(x64, rtol):
    n_params, steps, batch = np.array(PLACES).T
    small = 1e-4 * steps
    after = [root(n, s + d, b) for (n, s, b), d in zip(PLACES, small, strict=True)]
    before = [root(n, s - d, b) for (n, s, b), d in zip(PLACES, small, strict=True)]

    def total(steps):
        losses = loss_trajectory(LAW, n_params=n_params, steps=steps, batch=batch)
        return jnp.sum(losses), losses

    with jax.enable_x64(x64):
        slopes, losses = jax.grad(total, has_aux=True)(jnp.asarray(steps, float))
    np.testing.assert_allclose(losses, [root(*place) for place in PLACES], rtol=rtol)
    difference = np.subtract(after, before) / (2 * small)
    np.testing.assert_allclose(slopes, difference, rtol=1e-5)


def test_constants_have_gradients():
    with jax.enable_x64(True):
        gradient = jax.grad(
            lambda law: loss_trajectory(law, n_params=1e6, steps=1e3, batch=1e4)
        )(LAW)
        moved = LAW._replace(batch=LAW.batch._replace(scale=55.001))
        rise = loss_trajectory(moved, n_params=1e6, steps=1e3, batch=1e4) - root(
            1e6, 1e3, 1e4
        )
        np.testing.assert_allclose(gradient.batch.scale, rise / 1e-3, rtol=1e-3)


def test_a_scale_beyond_float32_does_no_harm():
    law = LAW._replace(size=PowerLaw(1e80, 0.005))
    loss = loss_trajectory(law, n_params=1e6, steps=1e9, batch=1e9)
    np.testing.assert_allclose(loss, (1e80 / 1e6) ** 0.005, rtol=1e-3)


def test_small_runs_tell_the_constants_and_a_larger_models_curve():
    sizes = np.array([2e4, 6e4, 2e5])
    size = fit_model_size_law(sizes, (LAW.size.scale / sizes) ** LAW.size.exponent)
    levels, batches = [7.0, 6.5, 6.0], [1e3, 4e3, 1.6e4, 6.4e4]
    found = []
    for level in levels:
        least = min_steps(LAW, n_params=2e5, loss=level)
        needed = critical_batch(LAW, level)
        steps = [least * (1 + needed / batch) for batch in batches]
        found.append(fit_batch_tradeoff(batches, steps))
        np.testing.assert_allclose(
            found[-1].min_tokens, min_tokens(LAW, n_params=2e5, loss=level)
        )
    batch = fit_critical_batch(levels, [each.critical_batch for each in found])
    n, s, b = (x.ravel() for x in np.meshgrid(sizes, np.geomspace(50, 5e3, 7), batches))
    losses = [root(*place) for place in zip(n, s, b, strict=True)]
    law = fit_step_law(
        n_params=n, steps=s, batch=b, losses=losses, size=size, critical_batch=batch
    )
    np.testing.assert_allclose(np.hstack(law), np.hstack(LAW), rtol=1e-6)
    joint = fit_step_curves(n_params=n, steps=s, batch=b, losses=losses)
    assert not joint.warnings and np.abs(joint.residuals).max() < 1e-6
    np.testing.assert_allclose(np.hstack(joint.law), np.hstack(LAW), rtol=1e-3)
    predicted = loss_trajectory(law, n_params=1e6, steps=2e4, batch=1e4)
    np.testing.assert_allclose(predicted, root(1e6, 2e4, 1e4), rtol=1e-5)


FEW = list(enumerate([1e5, 1e6] * 5))


def fit_few(**change):
    given = {"n_params": [1e5, 1e6] * 5, "batch": [1e3] * 4 + [1e4] * 4 + [1e5] * 2}
    given |= {"steps": [10.0 * (i + 1) for i in range(10)], "losses": [5.0] * 10}
    return fit_step_curves(**given | change)


@pytest.mark.parametrize(
    "fit, reason",
    [
        (
            lambda: fit_few(losses=[3 + n / 1e6 + 1 / (i + 1) for i, n in FEW]),
            "tune the learning rate",
        ),
        (lambda: fit_few(n_params=[1e6] * 10), r"1 model size\(s\): needs 2"),
        (lambda: fit_few(batch=[1e3] * 10), r"1 batch size\(s\): needs 3"),
        (lambda: fit_few(steps=[1e3] * 10), r"1 number\(s\) of steps: needs 3"),
        (
            lambda: fit_few(
                n_params=[1e6, 1e7, 1e8] * 3 + [1e8], batch=[1e3, 1e4, 1e5] * 3 + [1e5]
            ),
            "cannot be told apart",
        ),
        (lambda: fit_model_size_law([1e4, 1e4], [3.0, 2.0]), "two different values"),
        (lambda: fit_model_size_law([1e4, 1e5], [2.0, 3.0]), "not have a lower"),
        (lambda: fit_batch_tradeoff([1e3], [10.0]), "two different values"),
        (lambda: fit_batch_tradeoff([1e3, 1e4], [10.0, 20.0]), "least tokens .* above"),
        (lambda: fit_batch_tradeoff([1e3, 1e4], [1e3, 50.0]), "least steps .* below"),
        (lambda: fit_critical_batch([2.0, 3.0], [5.0, 5.0]), "do not change"),
        (
            lambda: fit_step_law(
                n_params=[1e6] * 2,
                steps=[1.0, 2.0],
                batch=[1e3] * 2,
                losses=[1.0, 1.1],
                size=LAW.size,
                critical_batch=LAW.batch,
            ),
            "above the converged loss",
        ),
    ],
)
def test_runs_that_determine_no_law_are_refused(fit, reason):
    with pytest.raises(UnidentifiedLaw, match=reason):
        fit()
