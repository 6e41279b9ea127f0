"""A paper's claim: the measured rows, the findings on them, and its file of JSON.

The file holds a claim's values and what follows from them: the mean and the spread of
each row, and the verdict of each finding.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError
from lostjax.repro.findings import Finding
from lostjax.repro.rows import Row


class Cost(NamedTuple):
    """What a table took."""

    runs: int
    """Runs that its numbers come from, sweeps and seeds."""
    tokens: int
    """Tokens that they were trained on, in all; 0 if the data are not text."""
    seconds: int
    """Their seconds, added up."""
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
    interval: str
    """Describes how the intervals of the findings were computed."""


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
