"""A claim in words and tables: as a page of its own, and as a block of a README."""

import math
import re
import textwrap
from collections.abc import Sequence

from lostjax.errors import ConfigError
from lostjax.repro.claims import Claim, Finding, Row, Verdict
from lostjax.view.numbers import format_count, format_seconds


def write_page(claim: Claim) -> str:
    """Write a claim's page, which lies beside its JSON and its figure."""
    lines = [
        f"# {claim.paper}",
        "",
        write_block(claim, folder="."),
        *_wrap(
            "Differences of means with their 95 % intervals (Welch's t over the seeds; "
            "negative is better):"
        ),
        "| statement | measure | difference | verdict |",
        "| --- | --- | ---: | --- |",
    ]
    lines += [
        f"| {found.statement} | {found.measure} | "
        f"{found.difference:+.4f} ± {found.margin:.4f} | {found.verdict} |"
        for found in claim.findings
    ]
    return "\n".join(lines) + "\n"


def write_block(claim: Claim, *, folder: str) -> str:
    """Write a claim's verdict, figure, rows and cost.

    Args:
      claim: what was measured.
      folder: of its figure, as the page that the block stands on sees it.
    """
    first = claim.rows[0]
    seeds = len(first.measures[first.main])
    heads = ["method", *first.facts, "best learning rate", *first.measures]
    lines = [
        *_wrap(state_verdict(claim.findings)),
        f"![{first.main} of each method, and over its learning rates]"
        f"({folder}/{claim.name}.svg)",
        "",
        f"| {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (len(heads) - 1)}",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in sort_rows(claim.rows)]
    cost = claim.cost
    machines = " and ".join(cost.machines)
    tokens = f", on {format_count(cost.tokens)} tokens," if cost.tokens else ""
    lines += [
        "",
        *_wrap(
            f"± is the standard deviation over {seeds} seeds. {claim.setting} All "
            f"{cost.runs} runs{tokens} took {format_seconds(cost.seconds)} on one core "
            f"each, added up ({machines})."
        ),
    ]
    return "\n".join(lines)


def state_verdict(findings: Sequence[Finding]) -> str:
    """Say which parts of a claim hold, which do not, and which are not decided."""
    groups: dict[Verdict, str] = {
        "holds": "Holds",
        "does not hold": "Does not hold",
        "within noise": "Within noise, neither shown nor refuted",
        "not measured": "Not measured, for a seed diverged",
    }
    sentences = []
    for verdict, words in groups.items():
        found = [_with_amount(one) for one in findings if one.verdict == verdict]
        if found or verdict != "not measured":
            listed = "; ".join(found) or "nothing"
            sentences.append(
                f"**{words} ({len(found)} of {len(findings)})**: {listed}."
            )
    return " ".join(sentences)


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """Put the best method first, and last what diverged."""

    def key(row: Row) -> tuple[bool, float]:
        mean = row.mean(row.main)
        return math.isnan(mean), mean

    return sorted(rows, key=key)


def replace_block(text: str, name: str, block: str) -> str:
    """Put a block between its markers, `<!-- results:NAME -->` and `<!-- end -->`.

    Raises:
      ConfigError: where the text does not have the two markers once.
    """
    start, end = f"<!-- results:{name} -->\n", "<!-- end -->\n"
    pattern = re.compile(f"({re.escape(start)}).*?({re.escape(end)})", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ConfigError(f"one {start.strip()} with one {end.strip()} after it needed")
    return pattern.sub(lambda found: f"{found[1]}{block}{found[2]}", text)


def _cells(row: Row) -> list[str]:
    """Write a row's cells: its name, counts, learning rate, and what was measured."""
    return [
        row.method,
        *(f"{count:,}" for count in row.facts.values()),
        f"{row.learning_rate:g}",
        *(f"{row.mean(name):.4f} ± {row.spread(name):.4f}" for name in row.measures),
    ]


def _with_amount(finding: Finding) -> str:
    if math.isnan(finding.difference):
        return finding.statement
    side = "better" if finding.difference < 0 else "worse"
    return (
        f"{finding.statement} ({abs(finding.difference):.4f} ± {finding.margin:.4f} "
        f"{side})"
    )


def _wrap(text: str) -> list[str]:
    """Break a paragraph as the README's are, with an empty line after it."""
    lines = textwrap.wrap(text, 88, break_on_hyphens=False, break_long_words=False)
    return [*lines, ""]
