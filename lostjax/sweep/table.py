"""A grid of runs as tables, in Markdown and on a page with figures."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lostjax.analysis import predict_max_logit
from lostjax.sweep.cells import LOSS, PARAMETERS
from lostjax.sweep.grid import (
    MAX_LOGIT,
    Grid,
    cap_loss,
    fit_growths,
    measure_sensitivities,
)
from lostjax.train.config.schema import TrainConfig
from lostjax.view.axes import Axis
from lostjax.view.curves import SERIES, Curve, draw_curves
from lostjax.view.fields import tabulate_fields
from lostjax.view.heat_maps import draw_heat_map
from lostjax.view.numbers import MISSING, format_count, format_loss, format_number
from lostjax.view.page import Drawing, Table, render_page

_RATE = Axis("learning rate", log=True)
_SIZE = (400, 300)
_CAPPED = (
    "A run that diverged, or ended above its initial loss, stands at its initial loss."
)


def make_tables(grid: Grid, *, larger: int | None) -> list[Table]:
    """Tabulate losses, sensitivities by width, and attention logits.

    Args:
      grid: the cells.
      larger: parameters, outside embedding and head, of a model to extrapolate the
        logits to; None for none.
    """
    widths = [f"width {width}" for width in grid]
    losses = [
        [
            f"{rate:g}",
            *(format_loss(cells[rate].measures[LOSS]) for cells in grid.values()),
        ]
        for rate in _rates(grid)
    ]
    return [
        Table("Held-out loss, nats per token", ["learning rate", *widths], losses),
        Table("By width", ["", *widths], _describe_widths(grid)),
        _tabulate_logits(grid, larger=larger),
    ]


def format_markdown(tables: Sequence[Table]) -> str:
    """Format tables as Markdown, each under its caption."""
    parts = []
    for table in tables:
        rule = ["---"] + ["---:"] * (len(table.head) - 1)
        lines = [f"| {' | '.join(row)} |\n" for row in (table.head, rule, *table.rows)]
        parts.append(f"{table.caption}\n\n{''.join(lines)}")
    return "\n".join(parts)


def render_sweep(grid: Grid, tables: Sequence[Table], *, config: TrainConfig) -> str:
    """Render a grid as one HTML page that needs nothing else.

    Args:
      grid: the cells.
      tables: what `make_tables` returned for them.
      config: what was trained, except for its learning rate and width.
    """
    losses, by_width, logits = tables
    return render_page(
        "sweep.html",
        {
            "title": f"{config.preset}: learning rates x widths",
            "loss_drawings": [_draw_losses(grid), _map_losses(grid)],
            "losses": losses,
            "by_width": by_width,
            "logit_drawing": _draw_logits(grid),
            "logits": logits,
            "configuration": tabulate_fields(dataclasses.asdict(config), rest="run"),
        },
    )


def _rates(grid: Grid) -> list[float]:
    return list(next(iter(grid.values())))


def _describe_widths(grid: Grid) -> list[list[str]]:
    first = [next(iter(cells.values())) for cells in grid.values()]
    sizes = [int(cell.measures[PARAMETERS]) for cell in first]
    rows = [["parameters outside embedding and head", *map(format_count, sizes)]]
    if found := measure_sensitivities(grid).values():
        rows.append(["sensitivity", *(format_loss(each.value) for each in found)])
        rows.append(["best learning rate", *(f"{each.best_rate:g}" for each in found)])
    return rows


def _tabulate_logits(grid: Grid, *, larger: int | None) -> Table:
    """Tabulate each rate's logits, their power of the size, and the extrapolation."""
    growths = fit_growths(grid)
    head = ["learning rate", *(f"width {width}" for width in grid)]
    if growths:
        head.append("power")
    if growths and larger is not None:
        head.append(f"at {format_count(larger)} parameters")
    rows = []
    for rate in _rates(grid):
        logits = [cells[rate].measures[MAX_LOGIT] for cells in grid.values()]
        row = [f"{rate:g}", *map(format_number, logits)]
        if rate in growths:
            row.append(f"{growths[rate].exponent:.2f}")
            if larger is not None:
                row.append(format_number(predict_max_logit(growths[rate], larger)))
        rows.append(row + [""] * (len(head) - len(row)))
    return Table("Largest attention logit", head, rows)


def _draw_losses(grid: Grid) -> Drawing:
    values_WR = np.array(
        [[cap_loss(cell) for cell in cells.values()] for cells in grid.values()]
    )
    drawn = draw_curves(
        _make_curves(grid, values_WR),
        name="losses",
        description="Held-out loss by learning rate, a curve for each width.",
        x=_RATE,
        y=Axis("held-out loss (nats)"),
        size=_SIZE,
    )
    return Drawing(drawn, note=_CAPPED)


def _map_losses(grid: Grid) -> Drawing:
    rates = _rates(grid)
    return Drawing(
        draw_heat_map(
            np.array(
                [
                    [cells[rate].measures[LOSS] for rate in rates]
                    for cells in grid.values()
                ]
            ),
            name="loss-map",
            description="Held-out loss in each cell; the table holds the same values.",
            x_label="learning rate",
            y_label="held-out loss (nats) by width",
            x_ticks=[f"{rate:g}" for rate in rates],
            y_ticks=[str(width) for width in grid],
            form=lambda loss: format_loss(loss) if math.isfinite(loss) else MISSING,
            size=_SIZE,
        ),
        note="The strongest colour is the lowest loss.",
    )


def _draw_logits(grid: Grid) -> Drawing:
    values_WR = np.array(
        [
            [cell.measures[MAX_LOGIT] for cell in cells.values()]
            for cells in grid.values()
        ]
    )
    return Drawing(
        draw_curves(
            _make_curves(grid, values_WR),
            name="logits",
            description="Largest attention logit by learning rate, a curve a width.",
            x=_RATE,
            y=Axis("largest attention logit", log=True),
            size=_SIZE,
        )
    )


def _make_curves(grid: Grid, values_WR: np.ndarray) -> list[Curve]:
    """Make a curve a width; of many only the first and the last are named."""
    widths, rates = list(grid), np.array(_rates(grid))
    named = widths if len(widths) <= len(SERIES) else (widths[0], widths[-1])
    return [
        Curve(f"width {width}" if width in named else "", rates, values, sparse=True)
        for width, values in zip(widths, values_WR, strict=True)
    ]
