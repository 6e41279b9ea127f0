"""Curves over training steps as inline SVG.

The horizontal axis is the true step: steps that are absent leave a gap as wide as they
were, and a curve of many points is drawn as the mean of each of some hundred equal
stretches of steps inside the band from its lowest to its highest point.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lostjax.train.envelope import find_envelope
from lostjax.train.figures.axes import (
    Entry,
    add_axes,
    add_legend,
    add_levels,
    style_axes,
)
from lostjax.train.figures.svg import INK, render_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 360
"""Stretches of steps; a curve of over twice as many points becomes a band."""

SERIES = (INK["--series-1"], INK["--series-2"])
"""Colours of the curves of a figure, in order."""

_MARKED = 60  # more points than this run together: a line alone is clearer


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
    size: tuple[int, int],
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
        size: Width and height in CSS pixels; so wide, letters are 12 pixels high.
        log: Whether the vertical axis is logarithmic; values are then positive.
        from_zero: Whether a linear vertical axis begins at zero.
        levels: Horizontal lines to compare with, by the words beside them.

    Returns:
        An `<svg>` element; everything in it is escaped.
    """
    last_step = max(float(curve.steps[-1]) for curve in curves if len(curve.steps))
    levels = levels or {}

    def draw(figure: "Figure") -> None:
        axes = add_axes(figure, size, levels=levels)
        for curve, colour in zip(curves, SERIES, strict=False):
            _plot(axes, curve, colour)
        if log:
            axes.set_yscale("log")
        elif from_zero:
            axes.set_ylim(bottom=0)
        style_axes(axes, last_step=last_step, y_label=y_label, log=log)
        add_legend(axes, _entries(curves))
        add_levels(axes, levels, width=size[0])

    return render_svg(draw, name=name, description=description, size=size)


def _entries(curves: Sequence[Curve]) -> list[Entry]:
    """Name the curves; one alone is named by its axis."""
    if len(curves) < 2:
        return []
    return [
        Entry(curve.label, colour, "\N{BULLET}" if curve.sparse else "\N{EM DASH}")
        for curve, colour in zip(curves, SERIES, strict=False)
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
