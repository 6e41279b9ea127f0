"""Claims in words, tables and figures: a page a claim, and a list of all."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from lostjax.repro.claims import Claim, Tally
from lostjax.repro.findings import Finding, Verdict
from lostjax.repro.rows import Row
from lostjax.view.claims import Method, draw_methods
from lostjax.view.numbers import format_count, format_seconds

VERDICTS: dict[Verdict, str] = {
    "holds": "Holds",
    "does not hold": "Does not hold",
    "within noise": "Within noise, neither shown nor refuted",
    "not measured": "Not measured, for a seed diverged",
}
"""How a paragraph of findings begins."""


def write_page(claim: Claim) -> str:
    """Write a claim's page, which lies beside its JSON and its figure."""
    first = claim.rows[0]
    tuned = any(row.learning_rate is not None for row in claim.rows)
    heads = [
        "method",
        *first.facts,
        *(["best learning rate"] if tuned else []),
        *first.measures,
    ]
    alt = f"{first.main} of each method{', and over its learning rates' * tuned}"
    lines = [
        f"# {claim.paper}",
        "",
        *_wrap(state_verdict(claim.findings)),
        f"![{alt}]({claim.name}.svg)",
        "",
        *_table(heads, [_cells(row, tuned=tuned) for row in sort_rows(claim.rows)]),
        "",
        *_wrap(_describe(claim)),
        *_wrap(
            f"Differences of means with their 95 % intervals ({claim.interval}; "
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


def draw_claim(claim: Claim) -> str:
    """Draw a claim's rows, the best first, as SVG."""
    methods = [
        Method(
            name=row.method,
            values=row.measures[row.main],
            swept=row.swept,
            learning_rate=row.learning_rate,
        )
        for row in sort_rows(claim.rows)
    ]
    own = claim.findings[0].first if claim.findings else claim.rows[0].method
    return draw_methods(
        methods,
        name=claim.name,
        own=own,
        measure=claim.rows[0].main,
        swept=claim.swept,
    )


def write_overview(tallies: Mapping[str, Tally]) -> str:
    """Write the page of all claims.

    Args:
      tallies: by claim, such as `lost-small`.
    """
    heads = ["paper", "statements", *(verdict for verdict in VERDICTS)]
    rows = [
        [f"[{tally.paper}]({name}.md)", *_counts(tally)]
        for name, tally in tallies.items()
    ]
    lines = [
        "# Papers' claims, measured again",
        "",
        *_wrap(
            "Each statement of a paper, and each control, is a difference between two "
            "methods in one measure. It holds, or does not hold, if the 95 % interval "
            "of that difference over the seeds lies on one side of 0; otherwise it is "
            "within noise. It is not measured if a seed diverged."
        ),
        *_table(heads, rows),
        "",
        *_wrap(
            "A paper's page has its figure, its rows, and every difference. Its runs "
            "are in `cells/`, one JSON line each, with the configuration and the "
            "machine. `python -m lostjax.repro NAME` measures a paper again and writes "
            "its page and this one; `python -m lostjax.repro` lists the names."
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def list_claims(names: Sequence[str], tallies: Mapping[str, Tally]) -> str:
    """List papers with their verdicts, as text.

    Args:
      names: of all papers.
      tallies: of those that were measured, by name.
    """
    rows = [["paper", "statements", *VERDICTS, ""]]
    for name in names:
        if name in tallies:
            rows.append([name, *_counts(tallies[name]), tallies[name].paper])
        else:
            rows.append([name, *["-"] * (1 + len(VERDICTS)), "not measured yet"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *numbers, last in rows:
        middle = [word.rjust(w) for word, w in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *middle, last]).rstrip())
    return "\n".join(lines) + "\n"


def state_verdict(findings: Sequence[Finding]) -> str:
    """Say which statements hold, which do not, and which are not decided."""
    sentences = []
    for verdict, words in VERDICTS.items():
        found = [_with_amount(one) for one in findings if one.verdict == verdict]
        if found or verdict != "not measured":
            listed = "; ".join(found) or "nothing"
            sentences.append(
                f"**{words} ({len(found)} of {len(findings)})**: {listed}."
            )
    return " ".join(sentences)


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """Sort the best method first, and what diverged last."""

    def key(row: Row) -> tuple[bool, float]:
        mean = row.mean(row.main)
        return math.isnan(mean), mean

    return sorted(rows, key=key)


def _describe(claim: Claim) -> str:
    """Describe seeds, setting and cost."""
    first, cost = claim.rows[0], claim.cost
    tokens = f", on {format_count(cost.tokens)} tokens," if cost.tokens else ""
    return (
        f"± is the standard deviation over {len(first.measures[first.main])} seeds. "
        f"{claim.setting} All {cost.runs} runs{tokens} took "
        f"{format_seconds(cost.seconds)} on one core each, added up "
        f"({' and '.join(cost.machines)})."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (len(heads) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _counts(tally: Tally) -> list[str]:
    numbers = [tally.counts.total(), *(tally.counts[verdict] for verdict in VERDICTS)]
    return [str(number) for number in numbers]


def _cells(row: Row, *, tuned: bool) -> list[str]:
    """Write a row's cells: its name, facts, learning rate, and measures."""
    rate = "" if row.learning_rate is None else f"{row.learning_rate:g}"
    return [
        row.method,
        *(f"{count:,}" for count in row.facts.values()),
        *([rate] if tuned else []),
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
    """Break a paragraph into lines, with an empty one after it."""
    lines = textwrap.wrap(text, 88, break_on_hyphens=False, break_long_words=False)
    return [*lines, ""]
