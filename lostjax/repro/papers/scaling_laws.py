"""Laws of loss on the curves of OPT and of models that repeat their data.

Choshen et al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024,
arXiv:2410.11840: a law is better fitted to the checkpoints of smaller models than to
their final losses; the first 10 billion tokens harm; one run suffices with constants of
another family; several small models are better than one large; targets of similar size
are easier; 4 % is the best error typically. Nothing is trained: the curves are the
paper's own collection. A seed is a target, the same for every method: OPT with 13, 30
and 175 billion parameters from the smaller ones, and models of 8.7 billion on C4 and
on OSCAR from those of 2.8 and 4.2, with 1, 2, 3, 4, 5, 7, 14 and 44 epochs.

    checkpoints        after 10 billion tokens, 20 a run, evenly in their logarithm
    no cut             the same from the first checkpoint on
    final losses       the last checkpoint of each run
    last checkpoints   those after 70 % of a run
    a third            those up to a third of a run
    without nearest    no run of the largest smaller model
    one run            that run alone; A and alpha of another family
    one small run      the smallest model's run, A and alpha of another family
    repeated tokens    worth fitted to smaller models with any number of epochs
    authors' fit       five constants by curve_fit from their start; no prior
    independent        as checkpoints; its interval as if they were independent
    sizes swapped      the control: the smallest run has the largest's size, and so on
    best loss          the least that a smaller model reached

Two smaller sizes determine no law: all fits except for the authors' and those of one
run have a prior, whose law is fitted to points of Chinchilla's figure (the "other
family"). Thinning, the prior's deviations and the intervals' settings are the library's
defaults or were chosen before anything was measured; nothing is tuned. Errors are of
the target's checkpoints after 70 % of its training.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import curve_fit

from lostjax.analysis.scaling import (
    LawPrior,
    LossFit,
    LossPoints,
    absolute_relative_error,
    cut_tokens,
    effective_tokens,
    fit_loss_law,
    forecast_loss,
    predict_loss,
    split_target,
    thin_points,
    transfer_law,
)
from lostjax.errors import ConfigError
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.loss_curves import Target, fit_source, list_targets
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE

ERROR, OUTSIDE, WIDTH = (
    "error, %",
    "outside the 90 % interval, %",
    "width of the interval, %",
)
LEVEL, NORMAL_QUANTILE = 0.9, 1.6448536269514722
CUT, LAST = 1e10, 0.7
DECAYS = tuple(np.geomspace(2.0, 64.0, 11).tolist())
AUTHORS_START = (6.255414, 7.3049974, 0.6254804, 0.3526596, 0.3526596)
"""a, b, e, alpha, beta in their code."""

OURS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Study:
    """A method, and how much is drawn."""

    draws: int = 100
    method: str = OURS
    per_run: int = 20


class Prediction(NamedTuple):
    """Of the target's last losses."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    return {name: dataclasses.replace(scale.config, method=name) for name in METHODS}


def measure(config: Study, rate: float | None, seed: int) -> dict[str, float]:
    """Forecast a target by a method."""
    targets = list_targets()
    if seed >= len(targets):
        raise ConfigError(f"--seeds: there are {len(targets)} targets")
    target = targets[seed]
    _, last = split_target(target.points, test_from=LAST)
    found = METHODS[config.method](config, target)
    outside = (last.losses < found.low) | (last.losses > found.high)
    return {
        ERROR: 100 * absolute_relative_error(found.loss, last.losses),
        OUTSIDE: 100 * float(np.mean(outside)),
        WIDTH: 100 * float(np.mean((found.high - found.low) / found.loss)),
    }


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


METHODS: Mapping[str, Callable[[Study, Target], Prediction]] = {
    OURS: partial(forecast, keep=keep_cut),
    "no cut": partial(forecast, keep=lambda points: points),
    "final losses": partial(forecast, keep=partial(keep_share, low=1.0)),
    "last checkpoints": partial(forecast, keep=partial(keep_share, low=LAST)),
    "a third": partial(
        forecast, keep=lambda points: keep_cut(keep_share(points, high=1 / 3))
    ),
    "without nearest": partial(forecast, keep=drop_nearest),
    "one run": partial(transfer, size=-1),
    "one small run": partial(transfer, size=0),
    "repeated tokens": repeat,
    "authors' fit": fit_as_authors,
    "independent": assume_independent,
    "sizes swapped": partial(forecast, keep=swap_sizes),
    "best loss": take_best,
}

COMPARISONS = (
    Comparison(OURS, "final losses", "checkpoints err less than final losses"),
    Comparison(OURS, "no cut", "without the first 10 billion tokens errors are less"),
    Comparison(OURS, "last checkpoints", "checkpoints err less than last checkpoints"),
    Comparison(OURS, "best loss", "checkpoints err less than the best loss"),
    Comparison("one run", "best loss", "one run errs less than the best loss"),
    Comparison("a third", "best loss", "a third of training errs less than best loss"),
    Comparison(OURS, "one run", "several smaller models err less than one large run"),
    Comparison(OURS, "without nearest", "errors are less with the nearest size"),
    Comparison("one run", "one small run", "one run of nearer size errs less"),
    Comparison(OURS, 4.0, "the error is less than 4 %"),
    Comparison(OURS, "authors' fit", "a prior errs less than the authors' start"),
    Comparison("repeated tokens", OURS, "counting repeated tokens less errs less"),
    Comparison(OURS, "sizes swapped", "errors are less than of swapped sizes"),
    Comparison(OURS, 10.0, "our interval misses less than 10 %", OUTSIDE),
    Comparison("independent", 10.0, "that of independent points does, too", OUTSIDE),
    Comparison(OURS, "independent", "ours misses less than that one", OUTSIDE),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    return (
        "Every seed is a target: OPT 13B, 30B and 175B from the smaller models, and "
        "8.7B on C4 and OSCAR with 1 to 44 epochs from 2.8B and 4.2B. Errors are of "
        "the target's checkpoints after 70 % of its training, relative to the loss. "
        f"Intervals are of 90 %, from {scale.config.draws} draws. Nothing is trained "
        "or tuned; the curves are public."
    )


EXPERIMENT = Experiment(
    paper="A Hitchhiker's Guide to Scaling Law Estimation (arXiv:2410.11840)",
    scales={
        "smoke": Scale(
            Study(draws=20, per_run=6), methods=(OURS, "final losses", "best loss")
        ),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(ERROR, OUTSIDE, WIDTH),
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    setting=describe,
    interval=PAIRED,
    seeds=19,
)
