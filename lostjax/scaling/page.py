"""The page of scaling laws: curves, law, forecasts, frontier, and what is not known."""

from collections.abc import Sequence

import numpy as np

from lostjax.analysis.scaling import Forecast, loss_trajectory, predict_loss
from lostjax.scaling.reading import LossCurve
from lostjax.scaling.results import LEVEL, Result
from lostjax.view.axes import Axis
from lostjax.view.curves import Curve, draw_curves
from lostjax.view.numbers import (
    MISSING,
    format_count,
    format_loss,
    format_number,
)
from lostjax.view.page import Drawing, Table, render_page

_TOKENS = Axis("tokens", log=True)
_LOSS = Axis("loss (nats)")
_SIZE, _SMALL = (400, 300), (300, 230)
_SHOWN = 6  # runs whose curve is drawn beside the law

_NOT_COVERED = (
    "The interval holds the spread of runs and of checkpoints around the law. It does "
    "not hold what the law gets wrong: another learning rate or schedule, repeated "
    "data, or a loss that does not follow this law at larger sizes. Checkpoints before "
    "the end of a falling learning rate lie above what a finished run has."
)


def render_scaling(result: Result) -> str:
    """Render a result as one HTML page that needs nothing else."""
    return render_page(
        "scaling.html",
        {
            "title": f"{len(result.curves)} runs, {len(result.points.sizes)} sizes",
            "source": result.curves[0].source,
            "curves": _draw_measured(result.curves),
            "runs": tabulate_runs(result),
            "no_loss_law": result.no_loss_law,
            "loss_law": _tabulate_law(result.forecast),
            "warnings": result.forecast.fit.warnings if result.forecast else (),
            "fits": _draw_fits(result),
            "forecasts": tabulate_forecasts(result),
            "note": _NOT_COVERED,
            "drawings": _draw_forecasts(result),
            "budgets": _tabulate_budgets(result),
            "no_step_law": result.no_step_law,
            "step_law": _tabulate_step_law(result),
            "step_warnings": result.step.warnings if result.step else (),
            "step_fits": _draw_step_fits(result),
        },
    )


def tabulate_runs(result: Result) -> Table:
    """Tabulate the curves and how far the law is from their last losses."""
    rows = []
    for curve in result.curves:
        last = MISSING
        if result.forecast is not None:
            loss = predict_loss(
                result.forecast.fit.law, n_params=curve.n_params, tokens=curve.tokens
            )
            last = f"{100 * (loss[-1] / curve.losses[-1] - 1):+.2f} %"
        batch = curve.batch_tokens
        rows.append(
            [
                curve.name,
                format_count(curve.n_params),
                format_count(batch) if np.isfinite(batch) else MISSING,
                f"{len(curve.tokens)}",
                format_count(curve.tokens[-1]),
                format_loss(curve.losses[-1]),
                last,
            ]
        )
    head = ["run", "parameters", "tokens a step", "points", "tokens", "loss"]
    return Table("Runs, and the law's error at their end", [*head, "law"], rows)


def tabulate_forecasts(result: Result) -> Table | None:
    """Tabulate the forecasts: a row a size, a column a number of tokens."""
    if result.forecast is None:
        return None
    found, columns = result.forecast, len(result.tokens)
    cells = [
        f"{format_loss(loss)} ({format_loss(low)} to {format_loss(high)})"
        for loss, low, high in zip(found.loss, found.low, found.high, strict=True)
    ]
    return Table(
        f"Forecast of the loss, nats, with its {100 * LEVEL:.0f} % interval",
        ["parameters", *(f"{format_count(seen)} tokens" for seen in result.tokens)],
        [
            [format_count(size), *cells[place * columns : (place + 1) * columns]]
            for place, size in enumerate(result.sizes)
        ],
    )


def _tabulate_law(forecast: Forecast | None) -> Table | None:
    if forecast is None:
        return None
    law = forecast.fit.law
    rms = 100 * float(np.sqrt(np.mean(forecast.fit.residuals**2)))
    rows = [[name, format_number(value)] for name, value in law._asdict().items()]
    rows.append(["error at the points, root mean square", f"{rms:.2f} %"])
    rows.append(["spread of runs", f"{100 * forecast.run_spread:.2f} %"])
    return Table("Loss = E + A / parameters^alpha + B / tokens^beta", ["", ""], rows)


def _tabulate_budgets(result: Result) -> Table | None:
    if not result.budgets:
        return None
    return Table(
        "The best size and tokens for an amount of computing",
        ["FLOPs", "parameters", "tokens", "tokens a parameter", "loss"],
        [
            [
                f"{budget.flops:.2e}",
                format_count(budget.n_params),
                format_count(budget.tokens),
                format_number(round(budget.tokens / budget.n_params, 3)),
                format_loss(budget.loss),
            ]
            for budget in result.budgets
        ],
    )


def _tabulate_step_law(result: Result) -> Table | None:
    if result.step is None:
        return None
    law = result.step.law
    rms = 100 * float(np.sqrt(np.mean(result.step.residuals**2)))
    rows = [
        ["N_c", format_number(law.size.scale)],
        ["alpha_N", format_number(law.size.exponent)],
        ["S_c", format_number(law.step.scale)],
        ["alpha_S", format_number(law.step.exponent)],
        ["L_B", format_number(law.batch.scale)],
        ["1 / alpha_B", format_number(law.batch.exponent)],
        ["error at the points, root mean square", f"{rms:.2f} %"],
    ]
    losses = np.array([curve.losses[-1] for curve in result.curves])
    needed = (law.batch.scale / losses.min()) ** law.batch.exponent
    rows.append(["critical batch at the lowest loss, tokens", format_count(needed)])
    return Table(
        "Loss = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S, "
        "critical batch = (L_B / loss)^(1 / alpha_B) tokens",
        ["", ""],
        rows,
    )


def _draw_measured(curves: Sequence[LossCurve]) -> Drawing:
    first, last = curves[0].n_params, curves[-1].n_params
    ends = {0: f"{format_count(first)} parameters", len(curves) - 1: format_count(last)}
    drawn = draw_curves(
        [
            Curve(ends.get(place, ""), curve.tokens, curve.losses)
            for place, curve in enumerate(curves)
        ],
        name="measured",
        description="Measured loss by tokens, a curve for each run.",
        x=_TOKENS,
        y=_LOSS,
        size=(760, 320),
    )
    return Drawing(drawn, note="The legend names the smallest and the largest model.")


def _choose(curves: Sequence[LossCurve]) -> list[tuple[int, LossCurve]]:
    """Choose a few runs from the smallest model to the largest."""
    places = np.unique(np.linspace(0, len(curves) - 1, _SHOWN).round().astype(int))
    return [(int(place), curves[place]) for place in places]


def _draw_fits(result: Result) -> list[Drawing]:
    if result.forecast is None:
        return []
    law = result.forecast.fit.law
    return [
        _draw_beside(
            curve,
            predict_loss(law, n_params=curve.n_params, tokens=curve.tokens),
            name=f"fit-{place}",
        )
        for place, curve in _choose(result.curves)
    ]


def _draw_step_fits(result: Result) -> list[Drawing]:
    if result.step is None:
        return []
    known = [curve for curve in result.curves if np.isfinite(curve.batch_tokens)]
    return [
        _draw_beside(
            curve,
            np.asarray(
                loss_trajectory(
                    result.step.law,
                    n_params=curve.n_params,
                    steps=curve.tokens / curve.batch_tokens,
                    batch=curve.batch_tokens,
                )
            ),
            name=f"step-{place}",
        )
        for place, curve in _choose(known)
    ]


def _draw_beside(curve: LossCurve, law: np.ndarray, *, name: str) -> Drawing:
    batch = curve.batch_tokens
    each = f", {format_count(batch)} a step" if np.isfinite(batch) else ""
    drawn = draw_curves(
        [
            Curve("measured", curve.tokens, curve.losses, sparse=True),
            Curve("law", curve.tokens, law),
        ],
        name=name,
        description=f"Measured loss and law of {curve.name}.",
        x=_TOKENS,
        y=_LOSS,
        size=_SMALL,
    )
    return Drawing(drawn, note=f"{format_count(curve.n_params)} parameters{each}")


def _draw_forecasts(result: Result) -> list[Drawing]:
    if result.forecast is None:
        return []
    found, columns = result.forecast, len(result.tokens)
    drawings = []
    order = np.argsort(result.tokens)
    if columns > 1:
        seen = np.array(result.tokens)[order]
        last = slice((len(result.sizes) - 1) * columns, None)
        drawn = draw_curves(
            [
                Curve(label, seen, values[last][order], sparse=True)
                for label, values in (
                    ("high", found.high),
                    ("forecast", found.loss),
                    ("low", found.low),
                )
            ],
            name="forecast",
            description="Forecast of the largest size, with its interval.",
            x=_TOKENS,
            y=_LOSS,
            size=_SIZE,
        )
        note = f"A model of {format_count(result.sizes[-1])} parameters."
        drawings.append(Drawing(drawn, note=note))
    if not result.budgets:
        return drawings
    flops = np.array([budget.flops for budget in result.budgets])
    losses = np.array([budget.loss for budget in result.budgets])
    drawn = draw_curves(
        [Curve("frontier", flops / flops[0], losses, sparse=True)],
        name="frontier",
        description="The least loss by the amount of computing.",
        x=Axis("FLOPs, times those of the largest run", log=True),
        y=_LOSS,
        size=_SIZE,
    )
    note = "The least loss that the law has for an amount of computing."
    return [*drawings, Drawing(drawn, note=note)]
