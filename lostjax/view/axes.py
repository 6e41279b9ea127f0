"""Axes of a drawing over the training step: frame, ticks, legend, levels, words."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lostjax.view.document import FONT_SIZE
from lostjax.view.numbers import format_count, format_number
from lostjax.view.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Levels = Mapping[str, float | int]
"""Horizontal lines to compare with, by the words beside them."""

_LETTER = 6.8  # pixels across, on average
_LEFT, _BOTTOM, _TOP = 48.0, 40, 34  # pixels around the axes
_ROW = 18  # of words above them
_STEPS = [1, 2, 5, 10]  # of ticks: no axis of 0.8, 1.6, 2.4


class Entry(NamedTuple):
    """A curve's words and colour in the legend."""

    label: str
    colour: str
    mark: str


def add_axes(
    figure: "Figure",
    size: tuple[int, int],
    *,
    y_label: str,
    legend: Sequence[Entry],
    levels: Levels,
) -> "Axes":
    """Add axes with words above and beside them, and leave room for the ticks."""
    width, height = size
    right = _right(width, levels)
    words = _LETTER * len(y_label) + sum(map(_across, legend))
    row = _ROW if legend and words > width - right else 0
    frame = (
        _LEFT / width,
        _BOTTOM / height,
        (width - _LEFT - right) / width,
        (height - _BOTTOM - _TOP - row) / height,
    )
    axes = figure.add_axes(frame)
    _say(axes, 0, 1, y_label, dx=-_LEFT, dy=12 + row, va="bottom", ha="left")
    _add_legend(axes, legend)
    return axes


def style_axes(axes: "Axes", *, last_step: float, log: bool) -> None:
    """Give drawn axes their lines and ticks; steps run from 0 to the last."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK["--soft"])
    axes.grid(axis="y", color=INK["--rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK["--soft"], length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    axes.set_xlim(0, max(last_step, 1) * 1.01)
    _place_ticks(axes, log=log)
    _say(axes, 1, 0, "step", dy=-34, va="baseline", ha="right")


def add_levels(axes: "Axes", levels: Levels, *, width: int) -> None:
    """Draw each level and its words at the right, pushed apart where they meet."""
    if not levels:
        return
    low, high = axes.get_ylim()
    low = min(low, min(levels.values()) - 0.05)
    high = max(high, max(levels.values()) + 0.05)
    axes.set_ylim(low, high)
    pixels = axes.bbox.height / (high - low)
    room = _right(width, levels) - 8
    floor = -math.inf  # where the next words may begin
    for label, value in sorted(levels.items(), key=lambda item: item[1]):
        axes.axhline(value, color=INK["--soft"], linewidth=0.9, dashes=(4, 3))
        lines = textwrap.wrap(label, int(room / _LETTER))
        height = len(lines) * (FONT_SIZE + 2)
        place = max((value - low) * pixels, floor + height / 2)
        floor = place + height / 2
        text = "\n".join(lines)
        _say(axes, 1, 0, text, dx=8, dy=place, va="center", ha="left")


def _add_legend(axes: "Axes", entries: Sequence[Entry]) -> None:
    """Name the curves above the axes, from the right, each in its own colour."""
    offset = 0.0
    for entry in reversed(entries):
        text, colour = f"{entry.mark} {entry.label}", entry.colour
        _say(axes, 1, 1, text, dx=offset, dy=12, va="bottom", ha="right", colour=colour)
        offset -= _across(entry)


def _across(entry: Entry) -> float:
    return 7.5 * len(entry.label) + 24


def _right(width: int, levels: Levels) -> float:
    """Room for the words beside the levels; where it is not enough they are broken."""
    longest = max((len(label) for label in levels), default=0)
    return min(0.4 * width, 12 + _LETTER * longest)


def _place_ticks(axes: "Axes", *, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    few = 4 if axes.bbox.width < 400 else 8
    places = MaxNLocator(nbins=few, integer=True, steps=[1, 2, 2.5, 5, 10])
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _step(x)))
    if log:
        low, high = axes.get_ylim()
        many = math.log10(high / low) > 2
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if many else (1, 2, 5)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))


def _step(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:g} M"


def _tick(value: float) -> str:
    if 0 < abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    return format_count(value) if abs(value) >= 1e4 else format_number(value)


def _say(
    axes: "Axes",
    x: int,
    y: int,
    text: str,
    *,
    dy: float | int,
    va: str,
    ha: str,
    dx: float | int = 0,
    colour: str = INK["--soft"],
) -> None:
    """Write `text` at axes fraction (x, y), moved by (dx, dy) pixels."""
    axes.annotate(
        text,
        (x, y),
        (dx, dy),
        xycoords="axes fraction",
        textcoords="offset points",
        color=colour,
        va=va,
        ha=ha,
        annotation_clip=False,
        parse_math=False,
    )
