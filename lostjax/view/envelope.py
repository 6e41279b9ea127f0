"""A curve of very many points in some hundred that hide no spike and no gap."""

from typing import NamedTuple

import numpy as np


class Envelope(NamedTuple):
    """Lowest, mean and highest value (E,) around each of E steps; NaN is a gap."""

    steps: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def find_envelope(steps: np.ndarray, values: np.ndarray, *, bins: int) -> Envelope:
    """Summarise a curve in at most `bins` points that hide no spike.

    Args:
        steps: (P,) ascending.
        values: (P,); what is not finite is left out of its stretch.
        bins: Equal stretches of steps, 1 or more. A curve of at most twice as many
            points is given back as it is.

    Returns:
        The stretches that hold a point, at the mean step of their points; NaN where
        none of a stretch's values is finite, and at one step within each wide gap.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    if len(steps) <= 2 * bins:
        return _break_gaps(Envelope(steps.astype(float), values, values, values))
    edges = np.linspace(steps[0], steps[-1] + 1, bins + 1)
    place = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, bins - 1)
    starts = np.flatnonzero(np.r_[True, np.diff(place) > 0])
    finite = np.isfinite(values)
    count = np.add.reduceat(finite.astype(float), starts)
    every = np.diff(np.r_[starts, len(steps)])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(finite, values, 0.0), starts) / count
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    empty = count == 0
    low[empty] = high[empty] = np.nan
    centre = np.add.reduceat(steps.astype(float), starts) / every
    return _break_gaps(Envelope(centre, low, mean, high))


def _break_gaps(shape: Envelope) -> Envelope:
    """Put a NaN into each gap over ten times as wide as the usual distance."""
    if len(shape.steps) < 3:
        return shape
    distance = np.diff(shape.steps)
    after = np.flatnonzero(distance > 10 * np.median(distance)) + 1
    if not len(after):
        return shape
    middle = (shape.steps[after - 1] + shape.steps[after]) / 2
    steps = np.insert(shape.steps, after, middle)
    low, mean, high = (np.insert(values, after, np.nan) for values in shape[1:])
    return Envelope(steps, low, mean, high)
