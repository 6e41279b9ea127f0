"""A row of a paper's table: a method over several seeds, by several measures.

    mean = sum x_i / n          spread = sqrt(sum (x_i - mean)^2 / (n - 1))

A row is measured at its best learning rate or over a grid of them. Every measure is
better if it is less: take an error, not an accuracy.
"""

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """A method, tuned and repeated."""

    method: str
    """What was trained."""
    facts: dict[str, int]
    """Counts that are the same for every seed, such as its parameters."""
    learning_rate: float | None
    """The best of the sweep, never at its edge if it was tuned; None without one."""
    swept: dict[float, float]
    """`Claim.swept` at every learning rate tried, of seed 0 or as a mean over seeds;
    NaN: diverged."""
    measures: dict[str, tuple[float, ...]]
    """A value a seed, by name; less is better. Rows are sorted by the first."""

    @property
    def main(self) -> str:
        """Name of the first measure."""
        return next(iter(self.measures))

    def mean(self, measure: str) -> float:
        """Compute the mean over seeds; NaN if one diverged."""
        return float(np.mean(self.measures[measure]))

    def spread(self, measure: str) -> float:
        """Compute the standard deviation over seeds (n - 1); NaN if one diverged."""
        return float(np.std(self.measures[measure], ddof=1))
