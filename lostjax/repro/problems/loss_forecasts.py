"""Forecasts of a target's last losses, each from a part of the smaller models' curves.

`Study` says how much is drawn; a forecast is a function of it and of a target.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import curve_fit

from lostjax.analysis.scaling import (
    LawPrior,
    LossFit,
    LossPoints,
    cut_tokens,
    effective_tokens,
    fit_loss_law,
    forecast_loss,
    predict_loss,
    split_target,
    thin_points,
    transfer_law,
)
from lostjax.repro.problems.loss_curves import Target, fit_source

LEVEL, NORMAL_QUANTILE = 0.9, 1.6448536269514722
CUT, LAST = 1e10, 0.7
DECAYS = tuple(np.geomspace(2.0, 64.0, 11).tolist())
AUTHORS_START = (6.255414, 7.3049974, 0.6254804, 0.3526596, 0.3526596)
"""a, b, e, alpha, beta in their code."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A method, and how much is drawn."""

    draws: int = 100
    method: str = "checkpoints"
    per_run: int = 20


class Prediction(NamedTuple):
    """Of the target's last losses."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def keep_cut(points: LossPoints) -> LossPoints:
    """Take the checkpoints after 10 billion tokens."""
    return cut_tokens(points, fewest=CUT)


def keep_share(
    points: LossPoints, *, low: float = 0.0, high: float = 1.0
) -> LossPoints:
    """Take the checkpoints in a part of each run's training."""
    longest = np.array([points.tokens[points.runs == run].max() for run in points.runs])
    share = points.tokens / longest
    return points.take((share >= low) & (share <= high))


def drop_nearest(points: LossPoints) -> LossPoints:
    """Leave out the largest of the smaller models."""
    return keep_cut(points.take(points.n_params < points.sizes[-1]))


def swap_sizes(points: LossPoints) -> LossPoints:
    """Exchange the sizes: the smallest model's runs have the largest size."""
    places = np.searchsorted(points.sizes, points.n_params)
    return keep_cut(points._replace(n_params=points.sizes[::-1][places]))


def forecast(
    config: Study, target: Target, *, keep: Callable[[LossPoints], LossPoints]
) -> Prediction:
    """Forecast from some points, with a prior and our interval."""
    train, last = split_target(target.points, test_from=LAST)
    points = thin_points(keep(train), per_run=config.per_run)
    fit = partial(fit_loss_law, prior=LawPrior(fit_source()))
    return _draw(config, points, last, fit)


def transfer(config: Study, target: Target, *, size: int) -> Prediction:
    """Forecast from the runs of one size, with A and alpha of another family."""
    train, last = split_target(target.points, test_from=LAST)
    points = keep_cut(train.take(train.n_params == train.sizes[size]))
    points = thin_points(points, per_run=config.per_run)
    return _draw(config, points, last, partial(transfer_law, source=fit_source()))


def repeat(config: Study, target: Target) -> Prediction:
    """Forecast in tokens that count less if they are repeated."""
    prior = LawPrior(fit_source())
    # Thinning takes unique tokens along in the place of losses, which it does not read.
    unique = target.relatives._replace(losses=target.relatives_unique)
    points, unique = (
        thin_points(keep_cut(each), per_run=config.per_run)
        for each in (target.relatives, unique)
    )

    def at(decay: float) -> tuple[float, LossPoints]:
        worth = effective_tokens(points.tokens, unique=unique.losses, decay=decay)
        there = points._replace(tokens=worth)
        fit = fit_loss_law(there, prior=prior)
        return float(np.sum(fit.residuals**2)), there

    decay = min(DECAYS, key=lambda each: at(each)[0])
    _, last = split_target(target.points, test_from=LAST)
    largest = target.points.n_params == target.points.sizes[-1]
    seen = target.points.tokens[largest]
    of_last = target.unique[largest][seen >= LAST * seen.max()]
    worth = effective_tokens(last.tokens, unique=of_last, decay=decay)
    fit = partial(fit_loss_law, prior=prior)
    return _draw(config, at(decay)[1], last._replace(tokens=worth), fit)


def fit_as_authors(config: Study, target: Target) -> Prediction:
    """Fit five constants by the authors' call of SciPy; there is no interval."""
    train, last = split_target(target.points, test_from=LAST)
    points = keep_cut(train)
    places = np.log([points.n_params, points.tokens])

    def law(x: np.ndarray, *theta: float) -> np.ndarray:
        a, b, e, alpha, beta = theta
        terms = np.exp(a - alpha * x[0]) + np.exp(b - beta * x[1])
        return np.asarray(np.exp(e) + terms)

    bounds = ([-np.inf] * 3 + [0.0] * 2, [np.inf] * 5)
    found, _ = curve_fit(
        law, places, points.losses, p0=AUTHORS_START, bounds=bounds, max_nfev=5000
    )
    loss = law(np.log([last.n_params, last.tokens]), *found)
    return Prediction(loss, loss, loss)


def assume_independent(config: Study, target: Target) -> Prediction:
    """Forecast as `checkpoints`; the interval is that of independent points."""
    train, last = split_target(target.points, test_from=LAST)
    points = thin_points(keep_cut(train), per_run=config.per_run)
    fit = fit_loss_law(points, prior=LawPrior(fit_source()))
    loss = predict_loss(fit.law, n_params=last.n_params, tokens=last.tokens)
    spread = NORMAL_QUANTILE * _deviation(fit, points, last)
    return Prediction(loss, loss - spread, loss + spread)


def _deviation(fit: LossFit, points: LossPoints, last: LossPoints) -> np.ndarray:
    """Compute the standard deviation of a new point, by the covariance."""
    law, (size, seen) = fit.law, fit.centre
    x, y = np.log(last.n_params / size), np.log(last.tokens / seen)
    by_size = law.A * last.n_params**-law.alpha
    by_tokens = law.B * last.tokens**-law.beta
    slopes = np.stack(
        [np.full_like(x, law.E), by_size, by_tokens, -x * by_size, -y * by_tokens]
    )
    variance = np.einsum("kq,kl,lq->q", slopes, fit.covariance, slopes)
    noise = np.mean((fit.residuals * points.losses) ** 2)
    return np.asarray(np.sqrt(variance + noise))


def take_best(config: Study, target: Target) -> Prediction:
    """Take the best loss of a smaller model."""
    train, last = split_target(target.points, test_from=LAST)
    loss = np.full(len(last.losses), train.losses.min())
    return Prediction(loss, loss, loss)


def _draw(
    config: Study,
    points: LossPoints,
    last: LossPoints,
    fit: Callable[..., LossFit],
) -> Prediction:
    """Forecast the target's last losses with our interval."""
    found = forecast_loss(
        points,
        n_params=last.n_params,
        tokens=last.tokens,
        fit=fit,
        level=LEVEL,
        n_draws=config.draws,
    )
    return Prediction(found.loss, found.low, found.high)
