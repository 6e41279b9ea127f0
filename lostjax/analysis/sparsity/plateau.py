"""Essential sparsity: how many weights can be removed before a model gets worse.

    essential sparsity = largest s: E(mask_t theta) >= E(theta) - epsilon for all t <= s

E is a score of which more is better and mask_s removes the share s of the weights. The
scores of a pruned model lie on a plateau up to the essential sparsity, and fall beyond.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805, with epsilon = 1 %. Their code
has no search for the plateau's end; ours interpolates linearly between the last tested
sparsity on the plateau and the next one, and computes an interval from repeated scores.
Curves are float64 NumPy arrays on the host.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Scores = Sequence[float | int] | Sequence[Sequence[float | int]] | np.ndarray
"""Scores (S,) at S sparsities, or (K, S) of K seeds or bootstrap samples."""


class EssentialSparsity(NamedTuple):
    """The end of a plateau."""

    sparsity: float
    """The sparsity at which the interpolated mean score has fallen by epsilon; the last
    tested one if it has not."""
    tested: float
    """The largest tested sparsity on the plateau."""
    is_censored: bool
    """Whether every tested sparsity is on the plateau, which may end anywhere beyond.
    """
    low: float
    """Lower end of the interval of the plateau's end over the K rows."""
    high: float
    """Upper end; the last tested sparsity if that many of the rows are censored."""
    slope_before: float
    """Change of the score per unit of sparsity on the plateau, by least squares; NaN
    with fewer than two points there."""
    slope_after: float
    """The same from the last point on the plateau on."""


def essential_sparsity(
    sparsities: Sequence[float | int] | np.ndarray,
    scores: Scores,
    *,
    tolerance: float | int = 0.01,
    relative: bool = False,
    confidence: float | int = 0.95,
) -> EssentialSparsity:
    """Find the end of the plateau of a pruned model's scores.

    Args:
      sparsities: S of them, rising from 0, below 1; at least 3.
      scores: (S,) or (K, S), of which more is better: pass the negative of a loss. A
        score after the first that is NaN counts as infinitely bad.
      tolerance: epsilon, positive: how far a score may fall below the first one.
      relative: whether epsilon is a share of the first score's absolute value.
      confidence: of the interval, in (0, 1). The interval is between quantiles of the
        rows' own ends: pass bootstrap samples for a confidence interval; for a few
        seeds it is nearly their range.

    Returns:
      The plateau's end. A score that recovers beyond it is not counted.

    Raises:
      ValueError: if there are too few sparsities, they do not rise from 0, the shapes
        differ, the first scores are not finite, or a number is out of range.
    """
    places = np.asarray(sparsities, np.float64)
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    _check(places, rows, tolerance=tolerance, confidence=confidence)
    rows = np.where(np.isnan(rows), -np.inf, rows)

    def find(row: np.ndarray) -> tuple[float, int]:
        drop = tolerance * abs(row[0]) if relative else tolerance
        return _find_end(places, row, floor=row[0] - drop)

    mean = rows.mean(axis=0)
    end, last = find(mean)
    tail = (1 - confidence) / 2
    low, high = np.quantile([find(row)[0] for row in rows], [tail, 1 - tail])
    return EssentialSparsity(
        sparsity=end,
        tested=float(places[last]),
        is_censored=last == len(places) - 1,
        low=float(low),
        high=float(high),
        slope_before=_slope(places[: last + 1], mean[: last + 1]),
        slope_after=_slope(places[last:], mean[last:]),
    )


def _find_end(
    places: np.ndarray, row: np.ndarray, *, floor: float
) -> tuple[float, int]:
    """Return where a curve first falls below a floor, and the last point before."""
    fallen = np.flatnonzero(row < floor)
    if not len(fallen):
        return float(places[-1]), len(places) - 1
    last = int(fallen[0]) - 1
    # An infinite score makes the share 0: the plateau ends at the last point on it.
    share = (row[last] - floor) / (row[last] - row[last + 1])
    return float(places[last] + share * (places[last + 1] - places[last])), last


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) < 2:
        return float("nan")
    away = x - x.mean()
    return float(away @ (y - y.mean()) / (away @ away))


def _check(
    places: np.ndarray,
    rows: np.ndarray,
    *,
    tolerance: float | int,
    confidence: float | int,
) -> None:
    if places.ndim != 1 or len(places) < 3:
        raise ValueError(f"sparsities: shape {places.shape}, needs 3 or more")
    if places[0] != 0 or not places[-1] < 1 or not np.all(np.diff(places) > 0):
        raise ValueError(f"sparsities={places.tolist()}: must rise from 0, below 1")
    if rows.ndim != 2 or rows.shape[1] != len(places) or not len(rows):
        raise ValueError(
            f"scores: shape {rows.shape}, must be (K, {len(places)}), one a sparsity"
        )
    if not np.all(np.isfinite(rows[:, 0])):
        raise ValueError("scores: the first one, of the whole model, must be finite")
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance={tolerance}: must be positive")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must lie in (0, 1)")
