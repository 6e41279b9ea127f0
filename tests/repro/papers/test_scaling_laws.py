"""Scaling laws of public curves: targets, what each method sees, and intervals."""

import numpy as np
import pytest

from lostjax.analysis.scaling import (
    LawPrior,
    UnidentifiedLaw,
    extrapolation_study,
    fit_loss_law,
    forecast_loss,
    split_target,
)
from lostjax.errors import ConfigError
from lostjax.repro.papers import scaling_laws as paper
from lostjax.repro.papers.scaling_laws import ERROR, OUTSIDE, Study, measure
from lostjax.repro.problems import loss_forecasts as forecasts
from lostjax.repro.problems.loss_curves import fit_source, list_targets, read_family


def test_targets_are_larger_than_all_that_is_seen_of_their_family():
    targets = list_targets()
    assert len(targets) == paper.EXPERIMENT.seeds == len({t.name for t in targets})
    for target in targets:
        train, last = split_target(target.points)
        assert train.n_params.max() < last.n_params.min()
        assert target.relatives.n_params.max() < last.n_params.min()
        assert len(target.unique) == len(target.points.tokens)
    repeated = targets[-1]
    assert repeated.name == "oscar, 44 epochs"
    np.testing.assert_allclose(repeated.points.tokens.max() / repeated.unique.max(), 44)
    with pytest.raises(ConfigError, match="there are 19 targets"):
        measure(Study(), None, 19)


@pytest.mark.parametrize(
    "size, error, cut_error",
    [(0, 2.454, 1.378), (1, 2.644, 1.473), (2, 5.043, 3.109)],
)
def test_errors_of_opt_are_those_of_scipy(size, error, cut_error):
    """The figures are of `scipy.optimize.curve_fit` on the same points."""
    points = list_targets()[size].points
    for fewest, expected in ((0, error), (1e10, cut_error)):
        study = extrapolation_study(points, fewest_tokens=fewest)
        np.testing.assert_allclose(100 * study.error, expected, atol=2e-3)


def test_one_smaller_size_is_refused_and_a_prior_widens():
    olmo = read_family("OLMo")
    with pytest.raises(UnidentifiedLaw, match="1 model size"):
        extrapolation_study(olmo)
    train, _ = split_target(read_family("datablations-c4", epochs=1))
    with pytest.raises(UnidentifiedLaw, match="2 model size"):
        fit_loss_law(train)
    near = train.take(np.arange(0, len(train.losses), 40))

    def fit(points, *, start=None):
        return fit_loss_law(points, prior=LawPrior(fit_source()), start=start)

    there = forecast_loss(
        near, n_params=[4.2e9, 1e12], tokens=[1e11] * 2, fit=fit, n_draws=20
    )
    widths = (there.high - there.low) / there.loss
    assert widths[1] > 1.2 * widths[0]


def test_methods_see_what_they_are_named_for():
    train, _ = split_target(list_targets()[2].points)
    assert forecasts.keep_cut(train).tokens.min() > 1e10
    finals = forecasts.keep_share(train, low=1.0)
    assert len(finals.losses) == len(train.sizes)
    third = forecasts.keep_share(train, high=1 / 3)
    assert third.tokens.max() < 1e11
    assert forecasts.drop_nearest(train).sizes[-1] == train.sizes[-2]
    swapped = forecasts.swap_sizes(train)
    assert swapped.n_params[0] == train.sizes[-1]


def test_a_prediction_without_an_interval_misses_everything():
    found = measure(Study(method="best loss"), None, 2)
    assert found[OUTSIDE] == 100 and found[ERROR] > 5
    naive = measure(Study(method="independent"), None, 2)
    authors = measure(Study(method="authors' fit"), None, 2)
    np.testing.assert_allclose(authors[ERROR], 3.109, atol=2e-3)
    assert naive[OUTSIDE] < 100
