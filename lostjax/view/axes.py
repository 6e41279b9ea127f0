"""Axes of a drawing: frame, ticks, legend, levels, words."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lostjax.view.characters import replace_controls
from lostjax.view.numbers import format_count, format_number
from lostjax.view.svg import FONT_SIZE, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Levels = Mapping[str, float | int]
"""Horizontal lines to compare with, by the words beside them."""

_LETTER = 6.8  # pixels across, on average
_LEFT, _BOTTOM, _TOP = 48.0, 40, 34  # pixels around the axes
_ROW = 18  # of words above them
_STEPS = [1, 2, 5, 10]  # of ticks: no axis of 0.8, 1.6, 2.4


class Axis(NamedTuple):
    """A quantity and how its values are laid out."""

    label: str
    """Quantity and unit."""
    log: bool = False
    """Whether the axis is logarithmic; values that are not positive are left out."""
    from_zero: bool = False
    """Whether a linear axis begins at zero."""
    whole: bool = False
    """Whether a linear axis has ticks at whole numbers alone."""


class Entry(NamedTuple):
    """Label and colour of a curve in the legend."""

    label: str
    colour: str
    mark: str


def add_axes(
    figure: "Figure",
    size: tuple[int, int],
    *,
    y_label: str,
    legend: Sequence[Entry] = (),
    levels: Levels | None = None,
    left: float = _LEFT,
) -> "Axes":
    """Add axes with words above and beside them, and leave room for the ticks.

    Args:
      figure: an empty figure.
      size: its width and height, pixels.
      y_label: text above the vertical axis.
      legend: entries above the axes, at the right.
      levels: lines whose words stand at the right of the axes.
      left: room for the vertical axis's ticks, pixels.
    """
    width, height = size
    right = _right_room(width, levels or {})
    words = _LETTER * len(y_label) + sum(map(_entry_width, legend))
    row = _ROW if legend and words > width - right else 0
    frame = (
        left / width,
        _BOTTOM / height,
        (width - left - right) / width,
        (height - _BOTTOM - _TOP - row) / height,
    )
    axes = figure.add_axes(frame)
    _write(axes, y_label, at=(0, 1), dx=-left, dy=12 + row, va="bottom", ha="left")
    _add_legend(axes, legend)
    return axes


def style_axes(axes: "Axes", *, x: Axis, y: Axis) -> None:
    """Style the lines and ticks of drawn axes."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK["--soft"])
    axes.grid(axis="y", color=INK["--rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK["--soft"], length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    _place_x_ticks(axes, x)
    _place_y_ticks(axes, y)
    label_x(axes, x.label)


def label_x(axes: "Axes", label: str) -> None:
    """Write the horizontal axis's quantity under its right end."""
    _write(axes, label, at=(1, 0), dy=-34, va="baseline", ha="right")


def add_levels(axes: "Axes", levels: Levels, *, width: int) -> None:
    """Draw each level and its words at the right, pushed apart if they would meet."""
    if not levels:
        return
    low, high = axes.get_ylim()
    low = min(low, min(levels.values()) - 0.05)
    high = max(high, max(levels.values()) + 0.05)
    axes.set_ylim(low, high)
    pixels = axes.bbox.height / (high - low)
    room = _right_room(width, levels) - 8
    floor = -math.inf  # lowest place that the next words may begin at
    for label, value in sorted(levels.items(), key=lambda item: item[1]):
        axes.axhline(value, color=INK["--soft"], linewidth=0.9, dashes=(4, 3))
        lines = textwrap.wrap(label, int(room / _LETTER))
        height = len(lines) * (FONT_SIZE + 2)
        place = max((value - low) * pixels, floor + height / 2)
        floor = place + height / 2
        text = "\n".join(lines)
        _write(axes, text, at=(1, 0), dx=8, dy=place, va="center", ha="left")


def _add_legend(axes: "Axes", entries: Sequence[Entry]) -> None:
    """Name the curves above the axes, from the right, each in its own colour."""
    offset = 0.0
    for entry in reversed(entries):
        text, colour = f"{entry.mark} {entry.label}", entry.colour
        _write(
            axes,
            text,
            at=(1, 1),
            dx=offset,
            dy=12,
            va="bottom",
            ha="right",
            colour=colour,
        )
        offset -= _entry_width(entry)


def _entry_width(entry: Entry) -> float:
    return 7.5 * len(entry.label) + 24


def _right_room(width: int, levels: Levels) -> float:
    """Compute the room for the words beside the levels; longer words are broken."""
    longest = max((len(label) for label in levels), default=0)
    return min(0.4 * width, 12 + _LETTER * longest)


def _place_x_ticks(axes: "Axes", x: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if x.log:
        low, high = axes.get_xlim()
        many = math.log10(high / low) > 1.5
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if many else (1, 2, 5)))
    else:
        few = 4 if axes.bbox.width < 400 else 8
        places = MaxNLocator(nbins=few, integer=x.whole, steps=[1, 2, 2.5, 5, 10])
        axes.xaxis.set_major_locator(places)
    axes.xaxis.set_minor_locator(NullLocator())
    form = _format_whole if x.whole else _format_tick
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def _place_y_ticks(axes: "Axes", y: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if y.log:
        low, high = axes.get_ylim()
        many = math.log10(high / low) > 2
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if many else (1, 2, 5)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))


def _format_whole(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:g} M"


def _format_tick(value: float) -> str:
    if 0 < abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    return format_count(value) if abs(value) >= 1e4 else format_number(value)


def _write(
    axes: "Axes",
    text: str,
    *,
    at: tuple[int, int],
    dy: float | int,
    va: str,
    ha: str,
    dx: float | int = 0,
    colour: str = INK["--soft"],
) -> None:
    """Write `text` at an axes fraction, moved by (dx, dy) pixels."""
    axes.annotate(
        replace_controls(text),  # matplotlib raises TypeError for a lone surrogate
        at,
        (dx, dy),
        xycoords="axes fraction",
        textcoords="offset points",
        color=colour,
        va=va,
        ha=ha,
        annotation_clip=False,
        parse_math=False,
    )
