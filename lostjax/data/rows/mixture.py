"""The deterministic order of sources in a mixture.

Weights are integers n_s with sum P. Job j of source s (j = 1, 2, ...) may be scheduled
from slot floor((j - 1) P / n_s) on, with deadline ceil(j P / n_s). Each slot serves the
eligible job with the earliest deadline. This schedule keeps the count N_s(i) of rows
from source s among the first i within one row of its share,

    |N_s(i) - i n_s / P| < 1,

and repeats after P slots. A table of P entries therefore yields N_s(i) for any i
without counting from 0. It is the fair scheduling of Baruah, Cohen, Plaxton and Varvel,
"Proportionate progress: a notion of fairness in resource allocation", 1996, on one
machine, where earliest deadline first suffices.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lostjax.errors import DataError
from lostjax.typing import Int

_LONGEST = 1 << 20


class Interleave:
    """A fixed order of sources according to their weights."""

    def __init__(self, weights: Sequence[Fraction | float | int]) -> None:
        """Build the table of the order.

        Args:
          weights: positive relative weights; floats are rounded to fractions with
            denominators up to 10,000.

        Raises:
          DataError: if a weight is not positive, or the common period exceeds 2^20
            rows.
        """
        self.period, table_P = _schedule(_as_integers(weights))
        counts_PS = np.zeros((self.period + 1, len(weights)), np.int64)
        np.add.at(counts_PS, (np.arange(self.period) + 1, table_P), 1)
        self._source_P = table_P
        # P + 1 prefix sums: counts at any row follow without a loop.
        self._counts_PS = counts_PS.cumsum(0)

    def counts(self, index: int) -> Int[np.ndarray, " S"]:
        """Return how many of the first `index` rows come from each source, (S,)."""
        whole, rest = divmod(index, self.period)
        counts: Int[np.ndarray, " S"] = (
            whole * self._counts_PS[-1] + self._counts_PS[rest]
        )
        return counts

    def locate(
        self, index_B: Int[np.ndarray, " B"]
    ) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """Locate rows of the mixture in their sources.

        Args:
          index_B: row numbers (B,) in the mixture, from 0.

        Returns:
          (source_B, before_B): the source of each row, and the number of earlier rows
            of the
          mixture from the same source.
        """
        whole_B, rest_B = np.divmod(index_B.astype(np.int64), self.period)
        source_B = self._source_P[rest_B]
        before_B = self._counts_PS[rest_B, source_B]
        return source_B, whole_B * self._counts_PS[-1][source_B] + before_B


def _as_integers(weights: Sequence[Fraction | float | int]) -> list[int]:
    if not weights or not all(weight > 0.0 for weight in weights):
        raise DataError(f"weights: {list(weights)} must all be above 0")
    exact = [
        weight
        if isinstance(weight, Fraction)
        else Fraction(weight).limit_denominator(10_000)
        for weight in weights
    ]
    scale = math.lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * scale) for weight in exact]
    common = math.gcd(*counts)
    counts = [count // common for count in counts] if common else counts
    if min(counts) < 1 or sum(counts) > _LONGEST:
        raise DataError(
            f"weights: {[float(weight) for weight in weights]} have no common period "
            f"of at most {_LONGEST} rows; round them, for example to two decimals"
        )
    return counts


def _schedule(shares: list[int]) -> tuple[int, Int[np.ndarray, " P"]]:
    period = sum(shares)
    done = [0] * len(shares)
    table = np.empty(period, np.int64)
    for slot in range(period):
        best, best_deadline = -1, period + 1
        for source, share in enumerate(shares):
            # Integer arithmetic: rounding of floats would break the bound of one row.
            if done[source] < share and done[source] * period // share <= slot:
                # Ceiling division in integers.
                deadline = -(-(done[source] + 1) * period // share)
                if deadline < best_deadline:
                    best, best_deadline = source, deadline
        table[slot] = best
        done[best] += 1
    return period, table
