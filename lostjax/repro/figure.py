"""A claim as a figure: a row a method, its seeds at the left, its sweep at the right.

Stands alone as an SVG file whose bytes depend on the claim and on matplotlib alone. It
is transparent, and its colours have a contrast above 3 on white and on black alike.
"""

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lostjax.repro.claims import Claim, Row
from lostjax.repro.tables import sort_rows
from lostjax.view.svg import draw_svg

INK, RULE = "#727a86", "#8f96a04d"
METHOD, OTHER = "#d9622b", "#3f83c4"
SEEDS, SWEEPS, GAP, ROW, TOP, BOTTOM = 340, 250, 24, 46, 34, 40
"""Pixels: of the two parts and between them, of a row, above and below the rows."""

NAMES, LETTER = 196, 6.8
"""Pixels: of the names at least, and of one letter of them."""


def draw_claim(claim: Claim) -> str:
    """Draw a claim's rows, the best first.

    Returns:
      An SVG document.
    """
    rows = sort_rows(claim.rows)
    height = TOP + ROW * len(rows) + BOTTOM
    own = claim.findings[0].first
    names = max(NAMES, round(LETTER * max(len(row.method) for row in rows)) + 14)
    full_width = names + SEEDS + GAP + SWEEPS + 10

    def draw(figure: Figure) -> None:
        def frame(left: int, width: int) -> Axes:
            inner = height - TOP - BOTTOM
            return figure.add_axes(
                (
                    left / full_width,
                    BOTTOM / height,
                    width / full_width,
                    inner / height,
                )
            )

        _draw_seeds(frame(names, SEEDS), rows, own=own)
        _draw_sweeps(
            frame(names + SEEDS + GAP, SWEEPS), rows, own=own, swept=claim.swept
        )

    svg = draw_svg(draw, name=claim.name, width=full_width, height=height)
    return svg.replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")


def _draw_seeds(axes: Axes, rows: list[Row], *, own: str) -> None:
    """Draw each seed, and the mean with a standard deviation to either side."""
    _style(axes, rows, title=f"{rows[0].main}: | seeds, \N{BULLET} mean ± deviation")
    for place, row in enumerate(rows):
        colour = METHOD if row.method == own else OTHER
        values = row.measures[row.main]
        axes.plot(values, [place] * len(values), "|", color=colour, markersize=12)
        if not math.isfinite(mean := row.mean(row.main)):
            continue
        axes.errorbar(
            mean, place, xerr=row.spread(row.main), fmt="o", color=colour, elinewidth=2
        )
        _say(axes, f"{mean:.3f}", (mean, place), dy=9, ha="center")
    axes.set_yticks(range(len(rows)), [row.method for row in rows])
    for label in axes.get_yticklabels():
        label.set_color(METHOD if label.get_text() == own else INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.margins(x=0.08)


def _draw_sweeps(axes: Axes, rows: list[Row], *, own: str, swept: str) -> None:
    """Draw each sweep within its row, all on one scale, the best rate filled."""
    finite = [
        value for row in rows for value in row.swept.values() if math.isfinite(value)
    ]
    low, high = min(finite), max(finite)
    what = "learning rates" if swept == rows[0].main else swept
    _style(axes, rows, title=f"{what}, each row {low:.2f} to {high:.2f}")
    for place, row in enumerate(rows):
        colour = METHOD if row.method == own else OTHER

        def height(value: float, place: int = place) -> float:
            share = (value - low) / (high - low or 1)
            return place + 0.36 - 0.72 * (share if math.isfinite(share) else 1)

        rates, values = list(row.swept), list(row.swept.values())
        axes.plot(rates, [height(v) for v in values], "-", color=colour, linewidth=1.2)
        for rate, value in row.swept.items():
            chosen = rate == row.learning_rate
            axes.plot(
                rate,
                height(value),
                "o" if math.isfinite(value) else "x",
                color=colour,
                fillstyle="full" if chosen else "none",
                markersize=7 if chosen else 4,
            )
    axes.set_yticks([])
    axes.set_xscale("log", base=2)
    axes.set_xticks(_far_apart({rate for row in rows for rate in row.swept}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _far_apart(rates: Iterable[float]) -> list[float]:
    """Choose at most six rates, each at least about twice the one before."""
    chosen: list[float] = []
    for rate in sorted(rates):
        if not chosen or rate > 1.9 * chosen[-1]:
            chosen.append(rate)
    return chosen[:: math.ceil(len(chosen) / 6)]


def _style(axes: Axes, rows: list[Row], *, title: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for place in range(1, len(rows)):
        axes.axhline(place - 0.5, color=RULE, linewidth=0.8)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    _say(axes, title, (0.0, -0.5), dy=12, ha="left")


def _say(
    axes: Axes, text: str, place: tuple[float, float | int], *, dy: int, ha: str
) -> None:
    """Write at a height of the rows; for the title, from the left of the axes."""
    across = axes.get_yaxis_transform() if ha == "left" else "data"
    axes.annotate(
        text,
        place,
        (0, dy),
        xycoords=across,
        textcoords="offset points",
        color=INK,
        ha=ha,
        annotation_clip=False,
        parse_math=False,
    )
