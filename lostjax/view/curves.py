"""Curves over training steps as inline SVG.

The horizontal axis is the true step: steps that are absent leave a gap as wide as they
were, and a curve of many points is drawn as the mean of each of some hundred equal
stretches of steps inside the band from its lowest to its highest point.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lostjax.view.axes import (
    Entry,
    Levels,
    add_axes,
    add_levels,
    style_axes,
)
from lostjax.view.envelope import find_envelope
from lostjax.view.svg import INK, mix_ink, render_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 360
"""Stretches of steps; a curve of over twice as many points becomes a band."""

SERIES = (INK["--series-1"], INK["--series-2"], INK["--series-3"])
"""Colours of the curves of a figure, in order."""

_MARKED = 60  # more points than this run together: a line alone is clearer


class Curve(NamedTuple):
    """Values (P,) at steps (P,), ascending; values may be NaN or infinite."""

    label: str
    """In the legend; empty leaves it out there."""
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
    size: tuple[int, int],
    log: bool = False,
    from_zero: bool = False,
    levels: Levels = MappingProxyType({}),
) -> str:
    """Draw curves over the training step.

    Args:
        curves: One to three in colours of their own, or any number in shades from the
            first to the second; together they hold at least one point.
        name: Unique in the page; begins the ids inside the drawing.
        description: What a reader who does not see the drawing is told.
        y_label: Quantity and unit.
        size: Width and height in CSS pixels; so wide, letters are 12 pixels high.
        log: Whether the vertical axis is logarithmic; what is not positive
            is then left out.
        from_zero: Whether a linear vertical axis begins at zero.
        levels: Horizontal lines to compare with, by the words beside them.

    Returns:
        An `<svg>` element; everything in it is escaped.
    """
    last_step = max(float(curve.steps[-1]) for curve in curves if len(curve.steps))
    colours = _choose_colours(len(curves))
    legend = _entries(curves, colours) if len(curves) > 1 else []

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, size, y_label=y_label, legend=legend, levels=levels)
        for curve, colour in zip(curves, colours, strict=True):
            _plot(axes, curve, colour)
        if log:
            axes.set_yscale("log", nonpositive="mask")
        elif from_zero:
            axes.set_ylim(bottom=0)
        style_axes(axes, last_step=last_step, log=log)
        add_levels(axes, levels, width=size[0])

    return render_svg(draw, name=name, description=description, size=size)


def _choose_colours(count: int) -> Sequence[str]:
    if count <= len(SERIES):
        return SERIES[:count]
    return [mix_ink(1 - number / (count - 1)) for number in range(count)]


def _entries(curves: Sequence[Curve], colours: Sequence[str]) -> list[Entry]:
    return [
        Entry(curve.label, colour, "\N{BULLET}" if curve.sparse else "\N{EM DASH}")
        for curve, colour in zip(curves, colours, strict=True)
        if curve.label
    ]


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
    _mark_bad_steps(axes, curve)


def _mark_bad_steps(axes: "Axes", curve: Curve) -> None:
    """Put a tick at the bottom for each stretch of steps that holds one not finite."""
    bad = curve.steps[~np.isfinite(curve.values)]
    if not len(bad):
        return
    span = max(1.0, float(curve.steps[-1] - curve.steps[0])) / BINS
    marks = np.unique(np.round(bad / span)) * span
    axes.plot(
        marks,
        np.zeros(len(marks)),
        color=INK["--alarm"],
        linestyle="none",
        marker=3,
        markersize=8,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
