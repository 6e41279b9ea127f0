"""A claim, the measured rows that speak to it, and what they say.

A row is a method over several seeds, at its best learning rate or over a grid of them.
Every measure is better if it is less: take an error, not an accuracy. A finding is the
difference of two rows' means in one measure with its 95 % interval, by Welch's t (B. L.
Welch, 1947; the two may have different spreads):

    difference = mean_a - mean_b
    margin     = t_{0.975, nu} sqrt(v_a + v_b)        v = s^2 / n
    nu         = (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1))

A number, such as what a closed form predicts, may take the second row's place: it has
no spread. If the interval holds 0 the seeds do not tell the two apart. One equal pair
in twenty still is told apart by chance. The spread is over initialisation and data
order; how far a finer grid of learning rates would move a mean is not in it.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError

CONFIDENCE = 0.95

Verdict = Literal["holds", "does not hold", "within noise", "not measured"]


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


class Cost(NamedTuple):
    """What a table took."""

    runs: int
    """Runs that its numbers come from, sweeps and seeds."""
    tokens: int
    """Tokens that they were trained on, in all; 0 if the data are not text."""
    seconds: int
    """Their wall-clock seconds, added up."""
    machines: tuple[str, ...]
    """What trained them."""


class Claim(NamedTuple):
    """A paper's claim and all that was measured about it."""

    name: str
    """`lost-small`: the paper and the scale."""
    paper: str
    setting: str
    """Text, model, tokens: what the numbers are of."""
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    cost: Cost
    swept: str
    """What learning rates were compared by."""


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


def claim_values(claim: Claim) -> dict[str, Any]:
    """Convert a claim to what JSON holds: its values and what follows from them.

    Numbers have eight digits, so that they are the same on every machine; NaN is None.
    """
    values = claim._asdict() | {
        "rows": [
            row._asdict()
            | {
                "mean": {name: row.mean(name) for name in row.measures},
                "spread": {name: row.spread(name) for name in row.measures},
            }
            for row in claim.rows
        ],
        "findings": [
            finding._asdict() | {"verdict": finding.verdict}
            for finding in claim.findings
        ],
        "cost": claim.cost._asdict(),
    }
    plain: dict[str, Any] = _tidy(json.loads(json.dumps(values)))
    return plain


def save_claim(path: Path, claim: Claim) -> None:
    """Write a claim as JSON."""
    text = json.dumps(claim_values(claim), indent=1, allow_nan=False) + "\n"
    replace_file(path, text.encode())


class Tally(NamedTuple):
    """A stored claim in short."""

    paper: str
    """Its title."""
    counts: Counter[str]
    """Statements by verdict."""


def read_tally(path: Path) -> Tally:
    """Count the verdicts of a claim that `save_claim` wrote.

    Raises:
      ConfigError: if the file is not a claim.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        verdicts = [finding["verdict"] for finding in values["findings"]]
        return Tally(values["paper"], Counter(verdicts))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not a claim: {error!r}") from None


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tidy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_tidy(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    return value
