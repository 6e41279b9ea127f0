"""Curves over training steps as inline SVG, in the colours of the page around them.

`draw_curves` gives an `<svg>` element without fixed size, external reference or
duplicate id. Its colours are CSS variables (`--ink`, `--soft`, `--rule`, `--series-1`,
`--series-2`, `--alarm`), so that one drawing serves a light and a dark page. The
horizontal axis is the true step: steps that are absent leave a gap as wide as they
were, and a curve of many points is drawn as the mean of each of some hundred
equal stretches of steps inside the band from its lowest to its highest point.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lostjax.train.envelope import find_envelope
from lostjax.train.quantities import format_count, format_number
from lostjax.train.svg import FONT_SIZE, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 360
"""Stretches of steps; a curve of over twice as many points becomes a band."""

_MARKED = 60  # more points than this run together: a line alone is clearer

# Colours that no one would choose, which are replaced by the page's variables.
_COLOURS = {
    "--ink": "#010203",
    "--soft": "#040506",
    "--rule": "#070809",
    "--series-1": "#0a0b0c",
    "--series-2": "#0d0e0f",
    "--alarm": "#101112",
}
_LETTER = 6.8  # pixels across, on average
_STEPS = [1, 2, 5, 10]  # of ticks: no axis of 0.8, 1.6, 2.4


class Curve(NamedTuple):
    """Values (P,) at steps (P,), ascending; values may be NaN or infinite."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    sparse: bool = False
    """Whether each point is marked, as fits a few evaluations."""


def draw_curves(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    y_label: str,
    width: int,
    height: int,
    log: bool = False,
    from_zero: bool = False,
    levels: Mapping[str, float | int] | None = None,
) -> str:
    """Draw curves over the training step.

    Args:
        curves: One or two; together they hold at least one point.
        name: Unique in the page; begins the ids inside the drawing.
        description: What a reader who does not see the drawing is told.
        y_label: Quantity and unit.
        width: In CSS pixels, at which its letters are 12 pixels high.
        height: In CSS pixels.
        log: Whether the vertical axis is logarithmic; values are then positive.
        from_zero: Whether a linear vertical axis begins at zero.
        levels: Horizontal lines to compare with, by the words beside them.

    Returns:
        An `<svg>` element; everything in it is escaped.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes(_frame(width, height, levels or {}))
        for curve, colour in zip(curves, ("--series-1", "--series-2"), strict=False):
            _plot(axes, curve, _COLOURS[colour])
        if log:
            axes.set_yscale("log")
        elif from_zero:
            axes.set_ylim(bottom=0)
        _style(axes, curves, log)
        _say(axes, 0, 1, y_label, dx=-_left(), dy=12, va="bottom", ha="left")
        _legend(axes, curves, width)
        _draw_levels(axes, levels or {}, room=_right(width, levels or {}) - 8)

    svg = draw_svg(draw, name=name, width=width, height=height)
    return _inline(svg, name, description, (width, height))


def _frame(
    width: int, height: int, levels: Mapping[str, float | int]
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the axes, as fractions of the figure."""
    left, bottom, top = _left(), 40, 34
    right = _right(width, levels)
    return (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - bottom - top) / height,
    )


def _left() -> float:
    return 48.0


def _right(width: int, levels: Mapping[str, float | int]) -> float:
    """Room for the words beside the levels; where it is not enough they are broken."""
    longest = max((len(label) for label in levels), default=0)
    return min(0.4 * width, 12 + _LETTER * longest)


def _plot(axes: "Axes", curve: Curve, colour: str) -> None:
    shape = find_envelope(curve.steps, curve.values, bins=BINS)
    few = curve.sparse and len(curve.steps) <= _MARKED
    lone = np.isfinite(shape.mean).sum() <= 1
    if not np.array_equal(shape.low, shape.high, equal_nan=True):
        axes.fill_between(
            shape.steps, shape.low, shape.high, color=colour, alpha=0.35, linewidth=0
        )
    axes.plot(
        shape.steps,
        shape.mean,
        color=colour,
        linewidth=1.5,
        solid_joinstyle="round",
        marker="o" if lone or few else None,
        markersize=4,
        clip_on=not curve.sparse,
    )
    bad = curve.steps[~np.isfinite(curve.values)]
    if len(bad):
        # A tick at the bottom for each stretch of steps that holds one.
        span = max(1.0, float(curve.steps[-1] - curve.steps[0])) / BINS
        marks = np.unique(np.round(bad / span)) * span
        axes.plot(
            marks,
            np.zeros(len(marks)),
            color=_COLOURS["--alarm"],
            linestyle="none",
            marker=3,
            markersize=8,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def _style(axes: "Axes", curves: Sequence[Curve], log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_COLOURS["--soft"])
    axes.grid(axis="y", color=_COLOURS["--rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_COLOURS["--soft"], length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    last = max(float(curve.steps[-1]) for curve in curves if len(curve.steps))
    few = 4 if axes.bbox.width < 400 else 8
    axes.set_xlim(0, max(last, 1) * 1.01)
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
    _say(axes, 1, 0, "step", dy=-34, va="baseline", ha="right")


def _step(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:g} M"


def _tick(value: float) -> str:
    return format_count(value) if abs(value) >= 1e4 else format_number(value)


def _legend(axes: "Axes", curves: Sequence[Curve], width: int) -> None:
    """Name the curves above the axes, from the right, each in its own colour."""
    if len(curves) < 2:
        return
    offset = 0.0
    colours = ("--series-1", "--series-2")
    for curve, colour in reversed(list(zip(curves, colours, strict=False))):
        mark = "\N{BULLET} " if curve.sparse else "\N{EM DASH} "
        _say(
            axes,
            1,
            1,
            mark + curve.label,
            dx=offset,
            dy=12,
            va="bottom",
            ha="right",
            colour=colour,
        )
        offset -= 7.5 * len(curve.label) + 24


def _draw_levels(
    axes: "Axes", levels: Mapping[str, float | int], *, room: float
) -> None:
    """Draw each level and its words at the right, pushed apart where they meet."""
    if not levels:
        return
    low, high = axes.get_ylim()
    low = min(low, min(levels.values()) - 0.05)
    high = max(high, max(levels.values()) + 0.05)
    axes.set_ylim(low, high)
    pixels = axes.bbox.height / (high - low)
    floor = -math.inf  # where the next words may begin
    for label, value in sorted(levels.items(), key=lambda item: item[1]):
        axes.axhline(value, color=_COLOURS["--soft"], linewidth=0.9, dashes=(4, 3))
        lines = textwrap.wrap(label, int(room / _LETTER))
        height = len(lines) * (FONT_SIZE + 2)
        place = max((value - low) * pixels, floor + height / 2)
        floor = place + height / 2
        text = "\n".join(lines)
        _say(axes, 1, 0, text, dx=8, dy=place, va="center", ha="left")


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
    colour: str = "--soft",
) -> None:
    """Write `text` at axes fraction (x, y), moved by (dx, dy) pixels."""
    axes.annotate(
        text,
        (x, y),
        (dx, dy),
        xycoords="axes fraction",
        textcoords="offset points",
        color=_COLOURS[colour],
        va=va,
        ha=ha,
        annotation_clip=False,
        parse_math=False,
    )


def _inline(svg: str, name: str, description: str, size: tuple[int, int]) -> str:
    """Turn a stand-alone SVG file into an element of a page that holds several."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :].strip()
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", body))
    body = re.sub(
        r' id="([\w.-]+)"',
        lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "",
        body,
    )
    body = re.sub(r"(url\(|xlink:href=\"|href=\")#", rf"\1#{name}-", body)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", body)
    body = re.sub(r"\n\s*", "\n", body)
    for variable, colour in _COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    width, height = size
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}">\n{body}'
    )
