"""A claim, the measured rows that speak to it, and what they say.

A row is a method at its best learning rate over several seeds. Two rows differ when
the distance of their means exceeds twice its standard error,

    |mean_a - mean_b| > 2 sqrt(s_a^2 / n_a + s_b^2 / n_b),

and otherwise the seeds cannot tell them apart. With three seeds this is a coarse rule:
about one pair in ten that are equal would be told apart by chance.
"""

import json
import math
import statistics
from pathlib import Path
from typing import NamedTuple

from lostjax.train.files import replace_file


class Row(NamedTuple):
    """A method, tuned and repeated."""

    method: str
    """What was trained."""
    parameters: int
    """Trainable parameters outside embedding and head."""
    learning_rate: float
    """The best of the sweep; never at its edge."""
    swept: dict[float, float]
    """Bits per byte of seed 0 at every learning rate tried; NaN where it diverged."""
    values: tuple[float, ...]
    """Held-out bits per byte at the best learning rate, one a seed."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1)."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


class Finding(NamedTuple):
    """One comparison that the claim rests on."""

    statement: str
    """What the paper says, such as `LOST is better than CoLA`."""
    difference: float
    """Mean of the first minus mean of the second, bits per byte; negative is better."""
    error: float
    """Standard error of the difference."""

    @property
    def verdict(self) -> str:
        """Give `holds`, `does not hold`, or `within noise`."""
        if abs(self.difference) <= 2 * self.error:
            return "within noise"
        return "holds" if self.difference < 0 else "does not hold"


class Claim(NamedTuple):
    """A paper's claim and all that was measured about it."""

    name: str
    paper: str
    setting: str
    """Text, model, tokens: what the numbers are of."""
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def compare_rows(first: Row, second: Row) -> Finding:
    """Ask whether the first method is better (has fewer bits per byte)."""
    return Finding(
        statement=f"{first.method} is better than {second.method}",
        difference=first.mean - second.mean,
        error=math.sqrt(
            sum(row.spread**2 / len(row.values) for row in (first, second))
        ),
    )


def save_claim(stem: Path, claim: Claim) -> None:
    """Write a claim as STEM.json and, for readers, STEM.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    values = claim._asdict() | {
        "rows": [
            row._asdict() | {"mean": row.mean, "spread": row.spread}
            for row in claim.rows
        ],
        "findings": [
            finding._asdict() | {"verdict": finding.verdict}
            for finding in claim.findings
        ],
    }
    text = json.dumps(values, indent=1) + "\n"
    replace_file(stem.with_suffix(".json"), text.encode())
    replace_file(stem.with_suffix(".md"), tabulate_claim(claim).encode())


def tabulate_claim(claim: Claim) -> str:
    """Write a claim as Markdown: its setting, its rows, and its findings."""
    lines = [
        f"{claim.setting}",
        "",
        "| method | parameters | learning rate | held-out bits per byte |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in sorted(claim.rows, key=lambda row: row.mean):
        lines.append(
            f"| {row.method} | {row.parameters:,} | {row.learning_rate:g} | "
            f"{row.mean:.4f} ± {row.spread:.4f} |"
        )
    lines += ["", "| claim | difference | verdict |", "| --- | ---: | --- |"]
    for finding in claim.findings:
        lines.append(
            f"| {finding.statement} | {finding.difference:+.4f} ± "
            f"{finding.error:.4f} | {finding.verdict} |"
        )
    return "\n".join(lines) + "\n"
