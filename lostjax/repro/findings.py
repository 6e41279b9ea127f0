"""Findings: the difference of two rows in one measure, and what it says of a statement.

The difference of their means has a 95 % interval by Welch's t (B. L. Welch, 1947; the
two may have different spreads):

    difference = mean_a - mean_b
    margin     = t_{0.975, nu} sqrt(v_a + v_b)        v = s^2 / n
    nu         = (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1))

A number, such as what a closed form predicts, may take the second row's place: it has
no spread. If the interval holds 0 the seeds do not tell the two apart. One equal pair
in twenty still is told apart by chance. The spread is over initialisation and data
order; how far a finer grid of learning rates would move a mean is not in it.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scipy.special import stdtrit

from lostjax.repro.rows import Row

CONFIDENCE = 0.95


Verdict = Literal["holds", "does not hold", "within noise", "not measured"]


class Finding(NamedTuple):
    """One comparison that a claim rests on."""

    statement: str
    """What the paper says, such as `LOST is better than CoLA`."""
    measure: str
    """What is compared."""
    first: str
    """The method that it speaks for."""
    second: str | float
    """The method, or the number, that it is compared with."""
    difference: float
    """Mean of the first minus that of the second; negative is better."""
    margin: float
    """Half the width of the difference's 95 % interval."""

    @property
    def verdict(self) -> Verdict:
        """Judge the statement by the difference and its margin."""
        if math.isnan(self.difference):  # a seed diverged
            return "not measured"
        if abs(self.difference) <= self.margin:
            return "within noise"
        return "holds" if self.difference < 0 else "does not hold"


class Comparison(NamedTuple):
    """A statement that holds if the first method has less of a measure."""

    first: str
    """A method."""
    second: str | float
    """Another method, or a number."""
    statement: str
    """What holds then, such as `LOST is better than CoLA`."""
    measure: str = ""
    """What is compared; default: the first measure of the rows."""


def compare_rows(
    first: Row, second: Row | float, *, statement: str, measure: str = ""
) -> Finding:
    """Judge whether the first method is better: whether it has less of a measure.

    Args:
      first: a row of at least two seeds.
      second: another, or a number.
      statement: what holds if it is.
      measure: name of what is compared; default: the first row's first.
    """
    measure = measure or first.main
    rows = [first, second] if isinstance(second, Row) else [first]
    counts = [len(row.measures[measure]) for row in rows]
    parts = [
        row.spread(measure) ** 2 / count
        for row, count in zip(rows, counts, strict=True)
    ]
    variance = sum(parts)
    margin = 0.0
    if variance > 0:
        freedom = variance**2 / sum(
            part**2 / (count - 1) for part, count in zip(parts, counts, strict=True)
        )
        margin = math.sqrt(variance) * float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    other = second.mean(measure) if isinstance(second, Row) else second
    return Finding(
        statement=statement,
        measure=measure,
        first=first.method,
        second=second.method if isinstance(second, Row) else second,
        difference=first.mean(measure) - other,
        margin=margin,
    )


def judge(
    rows: Sequence[Row], comparisons: Sequence[Comparison]
) -> tuple[Finding, ...]:
    """Make every comparison whose rows were measured."""
    found = {row.method: row for row in rows}
    return tuple(
        compare_rows(
            found[one.first],
            found[one.second] if isinstance(one.second, str) else one.second,
            statement=one.statement,
            measure=one.measure,
        )
        for one in comparisons
        if one.first in found
        and (one.second in found or not isinstance(one.second, str))
    )
