"""The fit of a loss law: oracles, refusals, warnings, intervals."""

from functools import partial

import numpy as np
import pytest
from scipy.optimize import curve_fit

from lostjax.analysis.scaling import (
    LawPrior,
    LossLaw,
    UnidentifiedLaw,
    absolute_relative_error,
    fit_loss_law,
    forecast_loss,
    log_huber,
    make_points,
    predict_loss,
    transfer_law,
)
from lostjax.analysis.scaling.search import Problem

LAW = LossLaw(1.7, 400.0, 1500.0, 0.34, 0.36)


def make_family(*, sizes=(1e8, 3e8, 1e9, 4e9), checkpoints=12, noise=0.0, spread=0.0):
    """Make a family of runs, each with a deviation of its own."""
    rng = np.random.default_rng(3)
    n_params = np.repeat(sizes, checkpoints)
    tokens = np.tile(np.geomspace(2e9, 3e11, checkpoints), len(sizes))
    losses = predict_loss(LAW, n_params=n_params, tokens=tokens)
    losses = losses * np.exp(
        np.repeat(spread * rng.normal(size=len(sizes)), checkpoints)
    )
    losses *= np.exp(noise * rng.normal(size=losses.size))
    return make_points(n_params=n_params, tokens=tokens, losses=losses)


def make_table():
    """Make losses of 6 sizes x 8 numbers of tokens: 1 % noise, and two outliers."""
    rng = np.random.default_rng(7)
    n_params = np.repeat(np.geomspace(5e7, 5e9, 6), 8)
    tokens = np.tile(np.geomspace(1e9, 2e11, 8), 6)
    losses = 1.8 + 480 / n_params**0.35 + 2100 / tokens**0.37
    losses *= np.exp(0.01 * rng.standard_normal(losses.size))
    losses[[5, 30]] *= 1.3
    return make_points(n_params=n_params, tokens=tokens, losses=losses)


def test_squared_error_agrees_with_scipy():
    points = make_family(noise=0.003)

    def law(x, e, a, b, alpha, beta):
        return np.exp(e) + np.exp(a - alpha * x[0]) + np.exp(b - beta * x[1])

    x = np.log([points.n_params, points.tokens])
    start = np.log([1.7, 400, 1500]).tolist() + [0.34, 0.36]
    found, _ = curve_fit(law, x, points.losses, p0=start, xtol=1e-12, ftol=1e-12)
    fit = fit_loss_law(points)
    assert fit.converged
    ours = predict_loss(fit.law, n_params=points.n_params, tokens=points.tokens)
    np.testing.assert_allclose(ours, law(x, *found), rtol=1e-7)
    np.testing.assert_allclose(fit.law[3:], found[3:], rtol=1e-4)


GOLDEN = LossLaw(
    E=1.8853702171375086,
    A=1027.2305282841487,
    B=3337.787103597406,
    alpha=0.39559079585093804,
    beta=0.3943978532514892,
)
"""Of chinchilla 0.2.0 on `make_table`, by `chinchilla_golden.py`."""


def test_the_huber_loss_is_no_higher_than_another_librarys():
    points = make_table()

    def objective(law):
        away = np.abs(
            np.log(points.losses)
            - np.log(predict_loss(law, n_params=points.n_params, tokens=points.tokens))
        )
        return np.where(away < 1e-3, away**2 / 2, 1e-3 * (away - 5e-4)).sum()

    fit = fit_loss_law(points, objective=log_huber(delta=1e-3))
    assert objective(GOLDEN) > objective(fit.law) > 0.999 * objective(GOLDEN)
    there = {"n_params": points.n_params, "tokens": points.tokens}
    theirs = predict_loss(GOLDEN, **there)
    assert absolute_relative_error(predict_loss(fit.law, **there), theirs) < 2e-3
    # Two outliers of 30 % move the squared error far more.
    squares = predict_loss(fit_loss_law(points).law, **there)
    assert absolute_relative_error(squares, theirs) > 5e-3


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"n_params": 1e9}, "1 model size"),
        ({"tokens": 1e9}, r"1 number\(s\) of tokens"),
        ({"losses": 2.0}, "the same at all points"),
    ],
)
def test_points_that_determine_no_law_are_refused(change, reason):
    points = make_family()
    ((name, value),) = change.items()
    points = points._replace(**{name: np.full(len(points.losses), value)})
    with pytest.raises(UnidentifiedLaw, match=reason):
        fit_loss_law(points)


def test_final_losses_alone_are_refused():
    points = make_family(sizes=np.geomspace(1e8, 1e10, 8), checkpoints=1)
    proportional = points._replace(tokens=20 * points.n_params)
    with pytest.raises(UnidentifiedLaw, match="power of the model's size"):
        fit_loss_law(proportional)
    with pytest.raises(UnidentifiedLaw, match="5 different points for 5 constants"):
        fit_loss_law(
            proportional.take(np.arange(5))._replace(
                tokens=np.array([9e9, 8e9, 7e9, 1e10, 5e9])
            )
        )


@pytest.mark.parametrize(
    "change, hint",
    [
        ({"losses": [20.0, 30.0]}, "take their logarithm"),
        ({"tokens": [9.0, 10.5]}, "not its logarithm"),
        ({"tokens": [0.0, 1e9]}, "tokens=0: must be positive"),
        ({"runs": ["a"]}, "runs: got 1 for 2"),
        ({"n_params": [1e6]}, "losses: got 2 for 1 n_params"),
    ],
)
def test_what_is_no_loss_curve_is_refused(change, hint):
    given = {"n_params": [1e6, 1e6], "tokens": [1e6, 1e9], "losses": [3.0, 2.0]}
    with pytest.raises(ValueError, match=hint):
        make_points(**given | change)


def test_a_law_that_the_points_leave_open_has_a_warning():
    points = make_family()
    assert fit_loss_law(points).converged
    # No irreducible loss: E falls until its bound stops it.
    rest = points._replace(losses=points.losses - 1.7)
    (warning,) = fit_loss_law(rest).warnings
    assert warning.startswith("E is at its bound")
    rising = fit_loss_law(points._replace(losses=5 - points.losses))
    assert not rising.converged


def test_a_term_that_noise_hides_has_a_warning():
    points = make_family(checkpoints=4)
    rng = np.random.default_rng(1)
    noisy = points._replace(losses=np.exp(1 + 0.05 * rng.normal(size=16)))
    warnings = " ".join(fit_loss_law(noisy).warnings)
    assert (
        "term of the size is uncertain" in warnings or "A is at its bound" in warnings
    )
    assert fit_loss_law(make_family(noise=0.003)).converged


def test_a_prior_makes_two_sizes_a_law_and_fades_with_more():
    # Of another exponent, but with the same loss at 1.4 billion parameters.
    far = LossLaw(1.7, 400 * 1.4e9**0.1, 1500.0, 0.44, 0.36)
    two = make_family(sizes=(1e9, 2e9))
    alpha = fit_loss_law(two, prior=LawPrior(far)).law.alpha
    assert 0.40 < alpha < 0.46
    many = make_family(sizes=np.geomspace(1e7, 1e10, 12))
    alpha = fit_loss_law(many, prior=LawPrior(far, noise=1e-4)).law.alpha
    assert abs(alpha - 0.34) < 2e-3


def test_fixed_constants_stay_what_they_are():
    points = make_family(noise=0.01)
    fit = fit_loss_law(points, fixed={"E": 1.6, "beta": 0.4})
    assert fit.law.E == 1.6 and fit.law.beta == 0.4
    assert not fit.covariance[0].any() and fit.covariance[1, 1] > 0
    everything = fit_loss_law(points, fixed=LAW._asdict())
    assert everything.law == LAW
    one = transfer_law(points.take(points.runs == 2), source=LAW)
    assert one.law.A == LAW.A and one.law.alpha == LAW.alpha


def test_intervals_hold_a_larger_run_that_deviates_as_the_smaller_do():
    points = make_family(spread=0.01, noise=0.003)
    to = {"n_params": [4e10], "tokens": [1e12]}
    (true,) = predict_loss(LAW, **{name: np.array(x) for name, x in to.items()})
    forecast = partial(forecast_loss, points, n_draws=40, **to)
    wide = forecast()
    assert wide.low[0] < 0.98 * true < 1.02 * true < wide.high[0]
    # As if checkpoints were independent: too narrow to hold even the truth.
    naive = forecast(run_spread=0.0)._asdict()
    assert naive["high"][0] - naive["low"][0] <= wide.high[0] - wide.low[0]
    assert wide.run_spread >= 0.01 and len(wide.laws) == 40
    certain = forecast_loss(make_family(), n_draws=20, run_spread=0.0, **to)
    np.testing.assert_allclose([certain.low, certain.high], true, rtol=1e-5)


@pytest.mark.parametrize("known", [{}, {"A": 400.0}, {"B": 1500.0, "E": 1.7}])
@pytest.mark.parametrize("prior", [None, LawPrior(LAW)])
def test_the_jacobian_is_that_of_the_residuals(known, prior):
    problem = Problem(make_family(noise=0.01), log_huber(), known, prior)
    theta = problem.complete(problem.encode(LAW._replace(alpha=0.3, beta=0.4)))
    exact = problem.jacobian(theta)
    for place in np.flatnonzero(problem.free):
        step = np.zeros(5)
        step[place] = 1e-6
        ahead, behind = problem.complete(theta + step), problem.complete(theta - step)
        slope = (problem.residuals(ahead) - problem.residuals(behind)) / 2e-6
        np.testing.assert_allclose(exact[:, place], slope, rtol=1e-5, atol=1e-8)
