"""Forecasts of a language model's loss curve from the curves of smaller ones.

A forecaster reads points of the smaller models alone and returns a function from a
size, a batch and steps to losses, which is then asked for the larger model's curve.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from lostjax.analysis.scaling import (
    StepLaw,
    UnidentifiedLaw,
    fit_batch_tradeoff,
    fit_critical_batch,
    fit_loss_law,
    fit_model_size_law,
    fit_step_curves,
    fit_step_law,
    loss_trajectory,
    make_points,
    predict_loss,
)

LEVELS, FARTHEST, PLACES = 5, 20, 2000


class Curve(NamedTuple):
    """Losses of one run on the way."""

    n_params: int
    batch: int
    """Tokens a step."""
    steps: np.ndarray
    losses: np.ndarray

    def loss_at(self, steps: np.ndarray) -> np.ndarray:
        """Interpolate in the logarithm of steps; constant before and after the run."""
        return np.asarray(np.interp(np.log(steps), np.log(self.steps), self.losses))


Curves = Sequence[Curve]
Forecast = Callable[[int, int, np.ndarray], np.ndarray]
"""From the number of parameters, the batch in tokens, and steps to losses."""


def fit_constants(curves: Curves) -> StepLaw:
    """Fit all constants of the step law at once."""
    return fit_step_curves(**_flatten(curves)).law


def fit_one_by_one(curves: Curves) -> StepLaw:
    """Fit the constants of size, critical batch and steps one after another.

    The last loss of each size, at the batch that all share, counts as converged.
    Levels of the loss are those that all batches of one size reach.
    """
    of_size = {n: [c for c in curves if c.n_params == n] for n in _list_sizes(curves)}
    shared = set.intersection(*({c.batch for c in of_size[n]} for n in of_size))
    batch = max(shared)
    last = [c.losses[-1] for c in curves if c.batch == batch]
    size = fit_model_size_law([c.n_params for c in curves if c.batch == batch], last)
    several = max(of_size.values(), key=len)
    levels, needed = [], []
    for level in _find_levels(several):
        taken = [_steps_to(each.loss_at, level, each.steps) for each in several]
        try:
            found = fit_batch_tradeoff([c.batch for c in several], taken)
        except UnidentifiedLaw:
            continue
        levels.append(level)
        needed.append(found.critical_batch)
    critical = fit_critical_batch(levels, needed)
    return fit_step_law(size=size, critical_batch=critical, **_flatten(curves))


def follow_law(law: StepLaw) -> Forecast:
    """Forecast by the constants of a step law."""

    # Each new call of the root finder would be compiled again.
    follow = jax.jit(partial(loss_trajectory, law))

    def forecast(n_params: int, batch: int, steps: np.ndarray) -> np.ndarray:
        at = np.asarray(steps, float)
        losses = follow(n_params=float(n_params), steps=at, batch=float(batch))
        return np.asarray(losses, float)

    return forecast


def follow_tokens(curves: Curves) -> Forecast:
    """Forecast by a law of size and tokens, whatever the batch is."""
    points = _flatten(curves)
    law = fit_loss_law(
        make_points(
            n_params=points["n_params"],
            tokens=points["steps"] * points["batch"],
            losses=points["losses"],
            runs=np.repeat(np.arange(len(curves)), [len(c.steps) for c in curves]),
        )
    ).law
    return lambda n_params, batch, steps: predict_loss(
        law, n_params=n_params, tokens=batch * steps
    )


def follow_nearest(curves: Curves) -> Forecast:
    """Forecast the largest of the smaller models' losses, as they are."""
    return lambda n_params, batch, steps: _find_nearest(curves, batch).loss_at(steps)


def follow_line(curves: Curves) -> Forecast:
    """Forecast the largest smaller model's losses by a power law of steps."""

    def forecast(n_params: int, batch: int, steps: np.ndarray) -> np.ndarray:
        near = _find_nearest(curves, batch)
        line = np.polyfit(np.log(near.steps), np.log(near.losses), 1)
        return np.exp(np.polyval(line, np.log(steps)))

    return forecast


def follow_sizes(curves: Curves) -> Forecast:
    """Forecast by a power law of size, another at every step and batch."""

    def forecast(n_params: int, batch: int, steps: np.ndarray) -> np.ndarray:
        those = [each for each in curves if each.batch == batch]
        sizes = np.log([each.n_params for each in those])
        losses = np.log([each.loss_at(steps) for each in those])
        slope, height = np.polyfit(sizes, losses, 1)
        return np.asarray(np.exp(slope * np.log(n_params) + height))

    return forecast


def ignore_size(curves: Curves) -> Forecast:
    """Forecast by the step law for the largest smaller model in the target's place."""
    forecast, largest = follow_law(fit_constants(curves)), _list_sizes(curves)[-1]
    return lambda n_params, batch, steps: forecast(largest, batch, steps)


def follow_swapped(curves: Curves) -> Forecast:
    """Forecast by the step law of runs whose two smallest batches are exchanged.

    Forecast the nearest curve if the fit is refused.
    """
    low, high = sorted({each.batch for each in curves})[:2]
    other = {low: high, high: low}
    swapped = [
        each._replace(batch=other.get(each.batch, each.batch)) for each in curves
    ]
    try:
        return follow_law(fit_constants(swapped))
    except UnidentifiedLaw:
        return follow_nearest(curves)


def cut_steps(curves: Curves, *, fewest: int) -> list[Curve]:
    """Leave out the checkpoints before a number of steps."""
    return [
        each._replace(
            steps=each.steps[each.steps >= fewest],
            losses=each.losses[each.steps >= fewest],
        )
        for each in curves
    ]


def score_curve(forecast: Forecast, target: Curves) -> float:
    """Compute the mean relative error of the losses, over all curves."""
    errors = [abs(_ask(forecast, each) / each.losses - 1) for each in target]
    return float(np.mean([error.mean() for error in errors]))


def score_last(forecast: Forecast, target: Curves) -> float:
    """Compute the mean relative error of the last losses."""
    errors = [abs(_ask(forecast, each) / each.losses - 1)[-1] for each in target]
    return float(np.mean(errors))


def score_steps(forecast: Forecast, target: Curves) -> float:
    """Compute the mean relative error of the steps to a loss, the larger by the less.

    Tokens to a loss are steps times the batch: their error is the same. A forecast that
    never falls to a loss counts as if it did where it is lowest.
    """
    logs = []
    for each in target:
        for level in _find_levels([each]):
            taken = _steps_to(each.loss_at, level, each.steps)
            logs.append(np.log(_forecast_steps(forecast, each, level) / taken))
    return float(np.expm1(np.abs(logs)).mean())


def _ask(forecast: Forecast, curve: Curve) -> np.ndarray:
    return forecast(curve.n_params, curve.batch, curve.steps)


def _flatten(curves: Curves) -> dict[str, np.ndarray]:
    lengths = [len(each.steps) for each in curves]
    return {
        "n_params": np.repeat([each.n_params for each in curves], lengths),
        "steps": np.concatenate([each.steps for each in curves]),
        "batch": np.repeat([each.batch for each in curves], lengths),
        "losses": np.concatenate([each.losses for each in curves]),
    }


def _list_sizes(curves: Curves) -> list[int]:
    return sorted({each.n_params for each in curves})


def _find_nearest(curves: Curves, batch: int) -> Curve:
    largest = _list_sizes(curves)[-1]
    return next(c for c in curves if (c.n_params, c.batch) == (largest, batch))


def _find_levels(curves: Curves) -> np.ndarray:
    """Space losses evenly from the first to the last that all curves pass."""
    high = min(each.losses[0] for each in curves)
    low = max(each.losses.min() for each in curves)
    return np.linspace(high, low, LEVELS + 1)[1:]


def _steps_to(
    loss_at: Callable[[np.ndarray], np.ndarray], level: float, steps: np.ndarray
) -> float:
    """Find the steps to a loss, or to the lowest loss if it is never reached."""
    places = np.geomspace(steps[0], steps[-1], PLACES)
    losses = np.minimum.accumulate(loss_at(places))
    return float(places[np.argmax(losses <= max(level, losses[-1]))])


def _forecast_steps(forecast: Forecast, curve: Curve, level: float) -> float:
    far = np.append(curve.steps, FARTHEST * curve.steps[-1])
    return _steps_to(
        lambda steps: forecast(curve.n_params, curve.batch, steps), level, far
    )
