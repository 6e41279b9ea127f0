"""Findings: the difference of two rows in one measure, and what it says of a statement.

The difference of their means has a 95 % interval. If a seed is the initialisation and
the order of the data, two methods' runs have nothing in common and the interval is that
of Welch's t (B. L. Welch, 1947; the two may have different spreads):

    difference = mean_a - mean_b
    margin     = t_{0.975, nu} sqrt(v_a + v_b)        v = s^2 / n
    nu         = (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1))

If a seed is a split of the data that all methods share, most of a row's spread is that
of the splits and cancels in the differences d_i of the seeds, whose t it is then:

    margin     = t_{0.975, n - 1} s_d / sqrt(n)

A number, such as what a closed form predicts, may take the second row's place: it has
no spread. If the interval holds 0 the seeds do not tell the two apart. One equal pair
in twenty still is told apart by chance. The spread is over initialisation and data
order; how far a finer grid of learning rates would move a mean is not in it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
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


class Interval(NamedTuple):
    """How the interval of a difference is computed."""

    margin: Callable[[Sequence[float], Sequence[float]], float]
    """Computes half its width from the two rows' values, seed by seed; the second are
    empty if a number takes their place."""
    name: str
    """Describes it in a table."""


def welch_margin(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute the margin of the difference of two independent means.

    Args:
      first: at least two values.
      second: at least two, or none: then the second mean is a number.
    """
    counts = [len(values) for values in (first, second) if values]
    parts = [
        np.var(values, ddof=1) / len(values) for values in (first, second) if values
    ]
    variance = float(sum(parts))
    if not variance > 0:
        return variance  # 0, or NaN if a seed diverged
    freedom = variance**2 / sum(
        part**2 / (count - 1) for part, count in zip(parts, counts, strict=True)
    )
    return math.sqrt(variance) * float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def paired_margin(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute the margin of the mean of the differences, seed by seed.

    Args:
      first: at least two values.
      second: as many, in the same order of seeds; or none: then the second mean is a
        number.

    Raises:
      ValueError: if there are more of one than of the other.
    """
    if second and len(first) != len(second):
        raise ValueError(f"{len(first)} seeds cannot be paired with {len(second)}")
    return welch_margin(np.subtract(first, second or 0.0).tolist(), ())


UNPAIRED = Interval(welch_margin, "Welch's t over the seeds")
PAIRED = Interval(paired_margin, "t of the differences, seed by seed")


def compare_rows(
    first: Row,
    second: Row | float,
    *,
    statement: str,
    measure: str = "",
    interval: Interval = UNPAIRED,
) -> Finding:
    """Judge whether the first method is better: whether it has less of a measure.

    Args:
      first: a row of at least two seeds.
      second: another, or a number.
      statement: what holds if it is.
      measure: name of what is compared; default: the first row's first.
      interval: computes the margin.
    """
    measure = measure or first.main
    if isinstance(second, Row):
        name: str | float = second.method
        mean, values = second.mean(measure), second.measures[measure]
    else:
        name, mean, values = second, second, ()
    return Finding(
        statement=statement,
        measure=measure,
        first=first.method,
        second=name,
        difference=first.mean(measure) - mean,
        margin=interval.margin(first.measures[measure], values),
    )


def judge(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    *,
    interval: Interval = UNPAIRED,
) -> tuple[Finding, ...]:
    """Make every comparison whose rows were measured."""
    found = {row.method: row for row in rows}
    return tuple(
        compare_rows(
            found[one.first],
            found[one.second] if isinstance(one.second, str) else one.second,
            statement=one.statement,
            measure=one.measure,
            interval=interval,
        )
        for one in comparisons
        if one.first in found
        and (one.second in found or not isinstance(one.second, str))
    )
