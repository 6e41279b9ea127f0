"""Methods side by side: a row each, its seeds at the left, its sweep at the right.

The figure stands alone as an SVG file whose bytes depend on the numbers and on
matplotlib alone. It is transparent, and its colours have a contrast above 3 on white
and on black alike.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lostjax.view.svg import draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE = "#727a86", "#8f96a04d"
METHOD, OTHER = "#d9622b", "#3f83c4"
SEEDS, SWEEPS, GAP, ROW, TOP, BOTTOM = 340, 250, 24, 46, 34, 40
"""Pixels: of the two parts and between them, of a row, above and below the rows."""

NAMES, LETTER = 196, 6.8
"""Pixels: of the names at least, and of one letter of them."""


class Method(NamedTuple):
    """What is drawn of a method."""

    name: str
    values: tuple[float, ...]
    """One a seed; NaN if it diverged."""
    swept: Mapping[float, float]
    """A value at each learning rate; empty if there are none."""
    learning_rate: float | None
    """The one that was chosen."""


def draw_methods(
    methods: Sequence[Method], *, name: str, own: str, measure: str, swept: str
) -> str:
    """Draw methods from top to bottom.

    Args:
      methods: in the order in which they are drawn.
      name: what the ids inside the drawing are derived from.
      own: the method that has a colour of its own.
      measure: what the values are.
      swept: what the learning rates were compared by.

    Returns:
      An SVG document.
    """
    height = TOP + ROW * len(methods) + BOTTOM
    longest = max(len(method.name) for method in methods)
    names = max(NAMES, round(LETTER * longest) + 14)
    has_sweeps = any(method.swept for method in methods)
    full_width = names + SEEDS + (GAP + SWEEPS if has_sweeps else 0) + 10
    what = "learning rates" if swept == measure else swept

    def draw(figure: "Figure") -> None:
        def frame(left: int, width: int) -> "Axes":
            inner = height - TOP - BOTTOM
            return figure.add_axes(
                (
                    left / full_width,
                    BOTTOM / height,
                    width / full_width,
                    inner / height,
                )
            )

        _draw_seeds(frame(names, SEEDS), methods, own=own, measure=measure)
        if has_sweeps:
            place = names + SEEDS + GAP
            _draw_sweeps(frame(place, SWEEPS), methods, own=own, what=what)

    svg = draw_svg(draw, name=name, width=full_width, height=height)
    return svg.replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")


def _draw_seeds(
    axes: "Axes", methods: Sequence[Method], *, own: str, measure: str
) -> None:
    """Draw each seed, and the mean with a standard deviation to either side."""
    title = f"{measure}: | seeds, \N{BULLET} mean ± deviation"
    _style(axes, len(methods), title=title)
    for place, (name, values, *_) in enumerate(methods):
        colour = METHOD if name == own else OTHER
        axes.plot(values, [place] * len(values), "|", color=colour, markersize=12)
        if not math.isfinite(mean := float(np.mean(values))):
            continue
        spread = float(np.std(values, ddof=1))
        axes.errorbar(mean, place, xerr=spread, fmt="o", color=colour, elinewidth=2)
        _say(axes, f"{mean:.3f}", (mean, place), dy=9, ha="center")
    axes.set_yticks(range(len(methods)), [method.name for method in methods])
    for label in axes.get_yticklabels():
        label.set_color(METHOD if label.get_text() == own else INK)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.margins(x=0.08)


def _draw_sweeps(
    axes: "Axes", methods: Sequence[Method], *, own: str, what: str
) -> None:
    """Draw each sweep within its row, all on one scale, the best rate filled."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    swept = [value for method in methods for value in method.swept.values()]
    finite = list(filter(math.isfinite, swept)) or [0.0]
    low, high = min(finite), find_top(finite)
    above = ", \N{BLACK UP-POINTING TRIANGLE} above" if high < max(finite) else ""
    title = f"{what}, each row {low:.2f} to {high:.2f}{above}"
    _style(axes, len(methods), title=title)
    for place, method in enumerate(methods):
        colour = METHOD if method.name == own else OTHER

        def height(value: float, place: int = place) -> float:
            share = (value - low) / (high - low or 1)
            return place + 0.36 - 0.72 * (share if share <= 1 else 1)  # NaN is 1, too

        heights = [height(value) for value in method.swept.values()]
        axes.plot(list(method.swept), heights, "-", color=colour, linewidth=1.2)
        for rate, value in method.swept.items():
            chosen = rate == method.learning_rate
            marker = "x" if not math.isfinite(value) else "^" if value > high else "o"
            axes.plot(
                rate,
                height(value),
                marker,
                color=colour,
                fillstyle="full" if chosen else "none",
                markersize=7 if chosen else 4,
            )
    axes.set_yticks([])
    axes.set_xscale("log", base=2)
    axes.set_xticks(_far_apart({rate for method in methods for rate in method.swept}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def find_top(values: Sequence[float]) -> float:
    """Find the top of a scale that a few far larger values do not flatten.

    Args:
      values: finite numbers, at least one.

    Returns:
      The largest value, unless at most a quarter of the values lie more than twice as
      high above the smallest one as all others: then the largest of those others.
    """
    ordered = sorted(values)
    low = ordered[0]
    for here, following in pairwise(ordered[3 * len(ordered) // 4 - 1 :]):
        if here > low and following - low > 2 * (here - low):
            return here
    return ordered[-1]


def _far_apart(rates: Iterable[float]) -> list[float]:
    """Choose at most six rates, each at least about twice the one before."""
    chosen: list[float] = []
    for rate in sorted(rates):
        if not chosen or rate > 1.9 * chosen[-1]:
            chosen.append(rate)
    return chosen[:: math.ceil(len(chosen) / 6)]


def _style(axes: "Axes", n_rows: int, *, title: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.set_ylim(n_rows - 0.5, -0.5)
    for place in range(1, n_rows):
        axes.axhline(place - 0.5, color=RULE, linewidth=0.8)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    _say(axes, title, (0.0, -0.5), dy=12, ha="left")


def _say(
    axes: "Axes", text: str, place: tuple[float, float | int], *, dy: int, ha: str
) -> None:
    """Write at a height of the rows; the title begins at the left of the axes."""
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
