"""Both laws of a set of loss curves, or the reasons why there are none."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lostjax.analysis.scaling import (
    SQUARED_ERROR,
    Forecast,
    LossPoints,
    Objective,
    StepFit,
    UnidentifiedLaw,
    compute_optimal,
    fit_loss_law,
    fit_step_curves,
    forecast_loss,
    log_huber,
    make_points,
    thin_points,
)
from lostjax.errors import ConfigError
from lostjax.scaling.reading import LossCurve

LEVEL = 0.9
PER_RUN = 30
FACTORS = (1, 2, 4, 8)
"""Default sizes and tokens that are forecast, over the largest of the runs."""


class Budget(NamedTuple):
    """The best size and tokens for an amount of computing."""

    flops: float
    n_params: float
    tokens: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Result:
    """What a set of curves tells."""

    curves: Sequence[LossCurve]
    points: LossPoints
    sizes: tuple[float, ...]
    """Sizes of the forecasts."""
    tokens: tuple[float, ...]
    """Tokens of the forecasts."""
    forecast: Forecast | None
    """At each size and each number of tokens, tokens varying fastest."""
    no_loss_law: str
    """Why there is none; empty if there is."""
    budgets: tuple[Budget, ...]
    step: StepFit | None
    no_step_law: str


def fit_curves(
    curves: Sequence[LossCurve],
    *,
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    draws: int = 100,
    huber: bool = False,
) -> Result:
    """Fit both laws to curves, and forecast.

    Args:
      curves: of one family, their beginnings left out.
      sizes: numbers of parameters to forecast for; default: 1, 2, 4 and 8 times the
        largest.
      tokens: numbers of tokens; default: likewise.
      draws: draws of the intervals.
      huber: whether outliers count little.

    Raises:
      ConfigError: if neither law can be fitted, or losses are no losses.
    """
    names = [curve.name for curve in curves]
    counts = [len(curve.tokens) for curve in curves]
    try:
        points = make_points(
            n_params=np.repeat([curve.n_params for curve in curves], counts),
            tokens=np.concatenate([curve.tokens for curve in curves]),
            losses=np.concatenate([curve.losses for curve in curves]),
            runs=np.repeat(np.arange(len(names)), counts),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sizes = tuple(sizes) or tuple(n * points.n_params.max() for n in FACTORS)
    tokens = tuple(tokens) or tuple(n * points.tokens.max() for n in FACTORS)
    forecast, no_loss_law = None, ""
    objective: Objective = log_huber() if huber else SQUARED_ERROR
    try:
        forecast = forecast_loss(
            thin_points(points, per_run=PER_RUN),
            n_params=np.repeat(sizes, len(tokens)),
            tokens=np.tile(tokens, len(sizes)),
            fit=partial(fit_loss_law, objective=objective),
            level=LEVEL,
            n_draws=draws,
        )
    except UnidentifiedLaw as error:
        no_loss_law = str(error)
    step, no_step_law = None, ""
    try:
        step = _fit_steps(curves)
    except UnidentifiedLaw as error:
        no_step_law = str(error)
    if forecast is None and step is None:
        raise ConfigError(
            f"no law can be fitted. Loss by parameters and tokens: {no_loss_law}. Loss "
            f"by parameters, steps and batch: {no_step_law}"
        )
    return Result(
        curves=curves,
        points=points,
        sizes=sizes,
        tokens=tokens,
        forecast=forecast,
        no_loss_law=no_loss_law,
        budgets=_find_budgets(forecast, points),
        step=step,
        no_step_law=no_step_law,
    )


def result_values(result: Result) -> dict[str, Any]:
    """Convert a result to what JSON holds."""
    values: dict[str, Any] = {
        "curves": [
            {
                "name": curve.name,
                "n_params": curve.n_params,
                "batch_tokens": _plain(curve.batch_tokens),
                "points": len(curve.tokens),
                "last_tokens": float(curve.tokens[-1]),
                "last_loss": float(curve.losses[-1]),
            }
            for curve in result.curves
        ],
        "source": result.curves[0].source,
        "loss_law": {"refused": result.no_loss_law},
        "step_law": {"refused": result.no_step_law},
    }
    if result.forecast is not None:
        found = result.forecast
        values["loss_law"] = found.fit.law._asdict() | {
            "warnings": list(found.fit.warnings),
            "rms_log_residual": float(np.sqrt(np.mean(found.fit.residuals**2))),
            "run_spread": found.run_spread,
            "level": LEVEL,
        }
        values["forecasts"] = [
            {
                "n_params": float(size),
                "tokens": float(seen),
                "loss": float(loss),
                "low": float(low),
                "high": float(high),
            }
            for (size, seen), loss, low, high in zip(
                [(size, seen) for size in result.sizes for seen in result.tokens],
                found.loss,
                found.low,
                found.high,
                strict=True,
            )
        ]
        values["compute_optimal"] = [budget._asdict() for budget in result.budgets]
    if result.step is not None:
        values["step_law"] = {
            name: law._asdict() for name, law in result.step.law._asdict().items()
        } | {
            "warnings": list(result.step.warnings),
            "rms_log_residual": float(np.sqrt(np.mean(result.step.residuals**2))),
        }
    return values


def _fit_steps(curves: Sequence[LossCurve]) -> StepFit:
    known = [curve for curve in curves if math.isfinite(curve.batch_tokens)]
    if not known:
        raise UnidentifiedLaw("no run says its tokens a step")
    counts = [len(curve.tokens) for curve in known]
    batch = np.repeat([curve.batch_tokens for curve in known], counts)
    return fit_step_curves(
        n_params=np.repeat([curve.n_params for curve in known], counts),
        steps=np.concatenate([curve.tokens for curve in known]) / batch,
        batch=batch,
        losses=np.concatenate([curve.losses for curve in known]),
    )


def _find_budgets(forecast: Forecast | None, points: LossPoints) -> tuple[Budget, ...]:
    """Find the best use of 1 to 1,000 times the computing of the largest run.

    A law with warnings has no use for it: its exponents may be anything.
    """
    if forecast is None or forecast.fit.warnings:
        return ()
    most = 6 * float((points.n_params * points.tokens).max())
    flops = most * np.geomspace(1, 1e3, 7)
    best = compute_optimal(forecast.fit.law, flops)
    return tuple(
        Budget(*map(float, row))
        for row in zip(flops, best.n_params, best.tokens, best.loss, strict=True)
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
