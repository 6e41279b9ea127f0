"""A curve of very many points in some hundred that hide no spike and no gap."""

from typing import NamedTuple

import numpy as np

from lostjax.typing import Float, Int


class Envelope(NamedTuple):
    """Lowest, mean and highest value (E,) around each of E places; NaN is a gap."""

    x: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def find_envelope(
    x: Float[np.ndarray, "P"] | Int[np.ndarray, "P"],
    y: Float[np.ndarray, "P"],
    *,
    bins: int,
) -> Envelope:
    """Summarise a curve in at most `bins` points that hide no spike.

    Args:
      x: (P,) ascending.
      y: (P,); a value that is not finite is left out of its stretch.
      bins: equal stretches of x, 1 or more. A curve of at most twice as many points is
        returned as it is.

    Returns:
      The stretches that hold a point, at the mean place of their points; NaN if none
      of a stretch's values is finite, and at one place within each wide gap.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    if len(x) <= 2 * bins:
        return _break_gaps(Envelope(x.astype(float), y, y, y))
    edges = np.linspace(x[0], x[-1] + 1, bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    starts = np.flatnonzero(np.r_[True, np.diff(place) > 0])
    finite = np.isfinite(y)
    count = np.add.reduceat(finite.astype(float), starts)
    every = np.diff(np.r_[starts, len(x)])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(finite, y, 0.0), starts) / count
    low = np.minimum.reduceat(np.where(finite, y, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, y, -np.inf), starts)
    empty = count == 0
    low[empty] = high[empty] = np.nan
    centre = np.add.reduceat(x.astype(float), starts) / every
    return _break_gaps(Envelope(centre, low, mean, high))


def _break_gaps(shape: Envelope) -> Envelope:
    """Put a NaN into each gap over ten times as wide as the usual distance."""
    if len(shape.x) < 3:
        return shape
    distance = np.diff(shape.x)
    after = np.flatnonzero(distance > 10 * np.median(distance)) + 1
    if not len(after):
        return shape
    middle = (shape.x[after - 1] + shape.x[after]) / 2
    x = np.insert(shape.x, after, middle)
    low, mean, high = (np.insert(values, after, np.nan) for values in shape[1:])
    return Envelope(x, low, mean, high)
