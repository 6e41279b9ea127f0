"""Curves as an inline SVG element.

Points stand at their true place on the horizontal axis: steps that are absent leave a
gap as wide as they were. A curve of many points is drawn as the mean of each of some
hundred equal stretches inside the band from its lowest to its highest point.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from markupsafe import Markup

from lostjax.view.axes import Axis, Entry, Levels, add_axes, add_levels, style_axes
from lostjax.view.envelope import Envelope, find_envelope
from lostjax.view.svg import INK, draw_element, mix_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 360
"""Stretches of a curve; one of over twice as many points becomes a band."""

SERIES = (INK["--series-1"], INK["--series-2"], INK["--series-3"])
"""Colours of the curves of a figure, in order."""

_MARKED = 60  # more points than this run together: a line alone is clearer


class Curve(NamedTuple):
    """Values y (P,) at places x (P,), ascending; y may be NaN or infinite."""

    label: str
    """In the legend; a curve with an empty label is left out there."""
    x: np.ndarray
    y: np.ndarray
    sparse: bool = False
    """Whether each point is marked, as fits a few evaluations."""


def draw_curves(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    x: Axis,
    y: Axis,
    size: tuple[int, int],
    levels: Levels = MappingProxyType({}),
) -> Markup:
    """Draw curves over a common horizontal axis.

    Args:
      curves: one to three in colours of their own, or any number in shades from the
        second to the first; together they hold at least one point.
      name: unique in the page; seeds the ids inside the drawing.
      description: text for a reader who does not see the drawing.
      x: the horizontal axis.
      y: the vertical axis.
      size: width and height in CSS pixels; at this width letters are 12 pixels high.
      levels: horizontal lines to compare with, by the words beside them.

    Returns:
      An `<svg>` element; everything in it is escaped.
    """
    last = max(float(curve.x[-1]) for curve in curves if len(curve.x))
    colours = _choose_colours(len(curves))
    legend = _make_legend(curves, colours) if len(curves) > 1 else []

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, size, y_label=y.label, legend=legend, levels=levels)
        for curve, colour in zip(curves, colours, strict=True):
            _plot(axes, curve, colour, log_x=x.log)
        if x.log:
            axes.set_xscale("log", nonpositive="mask")
        elif x.from_zero:
            axes.set_xlim(0, max(last, 1) * 1.01)
        if y.log:
            axes.set_yscale("log", nonpositive="mask")
        elif y.from_zero:
            axes.set_ylim(bottom=0)
        style_axes(axes, x=x, y=y)
        add_levels(axes, levels, width=size[0])

    return draw_element(draw, name=name, description=description, size=size)


def _choose_colours(count: int) -> Sequence[str]:
    if count <= len(SERIES):
        return SERIES[:count]
    return [mix_series(1 - number / (count - 1)) for number in range(count)]


def _make_legend(curves: Sequence[Curve], colours: Sequence[str]) -> list[Entry]:
    return [
        Entry(curve.label, colour, "\N{BULLET}" if curve.sparse else "\N{EM DASH}")
        for curve, colour in zip(curves, colours, strict=True)
        if curve.label
    ]


def _plot(axes: "Axes", curve: Curve, colour: str, *, log_x: bool) -> None:
    shape = _find_shape(curve, log_x=log_x)
    few = curve.sparse and len(curve.x) <= _MARKED
    lone = np.isfinite(shape.mean).sum() <= 1
    if not np.array_equal(shape.low, shape.high, equal_nan=True):
        axes.fill_between(
            shape.x, shape.low, shape.high, color=colour, alpha=0.35, linewidth=0
        )
    axes.plot(
        shape.x,
        shape.mean,
        color=colour,
        linewidth=1.5,
        solid_joinstyle="round",
        marker="o" if lone or few else None,
        markersize=4,
        clip_on=not curve.sparse,
    )
    _mark_bad_points(axes, curve)


def _find_shape(curve: Curve, *, log_x: bool) -> Envelope:
    """Summarise a curve in stretches that look equal on its axis."""
    if not log_x:
        return find_envelope(curve.x, curve.y, bins=BINS)
    shape = find_envelope(np.log10(curve.x), curve.y, bins=BINS)
    return shape._replace(x=10**shape.x)


def _mark_bad_points(axes: "Axes", curve: Curve) -> None:
    """Put a tick at the bottom for each stretch that holds a value not finite."""
    bad = curve.x[~np.isfinite(curve.y)]
    if not len(bad):
        return
    if len(bad) > BINS:
        span = max(1.0, float(curve.x[-1] - curve.x[0])) / BINS
        bad = np.unique(np.round(bad / span)) * span
    axes.plot(
        bad,
        np.zeros(len(bad)),
        color=INK["--alarm"],
        linestyle="none",
        marker=3,
        markersize=8,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
