"""The report of a run as one HTML file that needs nothing else.

The page has a headline, curves, the comparison with text baselines, readings of
stability, the memory ledger, a sample and the configuration. It asks for nothing from
a network, follows the reader's light or dark scheme, fits a phone, and stays under
1.5 MB however many steps the run had.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from lostjax.disk.files import replace_file
from lostjax.train.report.contents import LedgerRow, Report
from lostjax.train.report.figures import (
    Lines,
    draw_bits_per_byte,
    draw_loss,
    draw_training,
)
from lostjax.train.report.readings import show_readings
from lostjax.view.fields import tabulate_fields
from lostjax.view.numbers import (
    MISSING,
    format_loss,
    format_perplexity,
    format_seconds,
)
from lostjax.view.page import Bar, Table, render_page

_EVALUATIONS_SHOWN = 100


def write_report(path: str | Path, report: Report) -> None:
    """Write `report` as one HTML file, whole or not at all.

    Args:
      path: the file, in a folder that exists; an old one is replaced in one step.
      report: what to show.

    Raises:
      OSError: if the file cannot be written.
    """
    baselines = _rank_baselines(report)
    text = render_page(
        "report.html",
        {
            "title": report.title,
            "command": report.command,
            "headline": report.headline(),
            "comparison": report.compare_baselines(),
            "loss": draw_loss(report.metrics, report.evaluations),
            "baselines": baselines,
            "bits_per_byte": baselines
            and draw_bits_per_byte(report.evaluations, report.baselines),
            "training": draw_training(report.metrics),
            "stability": show_readings(report.stability),
            "ledger": _tabulate_ledger(report.ledger),
            "sample": report.sample,
            "configuration": tabulate_fields(report.configuration, rest="run"),
            "environment": _tabulate_environment(report),
            "evaluations": _tabulate_evaluations(report.evaluations),
        },
    )
    replace_file(path, text.encode("utf-8"))


def _rank_baselines(report: Report) -> list[Bar]:
    """Rank the model among the baselines, fewest bits per byte first."""
    mine = report.held_out("bits_per_byte")
    entries = [(n, v, False) for n, v in report.baselines.items() if math.isfinite(v)]
    if not entries or mine is None:
        return []
    entries.append(("this model", mine, True))
    past = report.held_out("past_bits_per_byte")
    if past is not None:
        entries.append(("this model, averaged", past, True))
    longest = max(v for _, v, _ in entries if math.isfinite(v)) or 1.0
    entries.sort(key=lambda entry: entry[1] if math.isfinite(entry[1]) else math.inf)
    return [
        Bar(
            name,
            format_loss(value),
            share=value / longest if math.isfinite(value) else 0.0,
            strong=strong,
        )
        for name, value, strong in entries
    ]


def _tabulate_ledger(rows: Sequence[LedgerRow]) -> Table | None:
    if not rows:
        return None
    caption = (
        "This model beside the dense model of the same shape; 1 MB is 1,000,000 bytes"
    )
    head = ("quantity", "this model", "dense", "ratio")
    return Table(caption, head, [row.cells() for row in rows])


def _tabulate_environment(report: Report) -> list[Table]:
    timings = report.timings
    times = (
        ("command to first step", timings.first_step),
        ("of it compiling", timings.compilation),
        ("total", timings.total),
    )
    measured = {
        name: format_seconds(value) for name, value in times if value is not None
    }
    tables = {"machine and versions": report.environment, "time": measured}
    return tabulate_fields({"text": report.text, **tables}, rest="")


def _tabulate_evaluations(evaluations: Lines) -> Table | None:
    """Tabulate the last evaluations; None for a single one, which the head shows."""
    if len(evaluations) < 2:
        return None
    shown = evaluations[-_EVALUATIONS_SHOWN:]
    known = (
        ("loss", "eval_loss", format_loss),
        ("perplexity", "eval_perplexity", format_perplexity),
        ("bits per byte", "eval_bits_per_byte", format_loss),
        ("loss of the average", "eval_past_loss", format_loss),
        ("its bits per byte", "eval_past_bits_per_byte", format_loss),
    )
    there = {name for line in shown for name in line}
    columns = [column for column in known if column[1] in there]
    rows = [
        (
            f"{line['step']:,}",
            *(form(line[n]) if n in line else MISSING for _, n, form in columns),
        )
        for line in shown
    ]
    caption = f"The last {len(shown)} of {len(evaluations)} evaluations"
    if len(shown) == len(evaluations):
        caption = "Held-out text"
    return Table(caption, ("step", *(head for head, _, _ in columns)), rows)
