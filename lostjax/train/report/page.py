"""The report of a run: what it came to, as one HTML file that needs nothing else.

`Report` is plain data; `write_report` turns it into a page with a headline, curves,
the comparison with text baselines, readings of stability, the memory ledger, a sample
and the configuration.
The file asks for nothing from a network, follows the reader's light or dark scheme,
fits a phone, and stays under 1.5 MB however many steps the run had.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lostjax.disk.files import replace_file
from lostjax.train.report.contents import LedgerRow, Report, Sample, Timings
from lostjax.train.report.figures import (
    Lines,
    baseline_figure,
    loss_figure,
    training_figures,
)
from lostjax.train.report.stability import stability_section
from lostjax.view.html import Html, element, join, page, table
from lostjax.view.numbers import (
    MISSING,
    format_bytes,
    format_count,
    format_flops,
    format_loss,
    format_perplexity,
    format_seconds,
)

_FORMATS = {"count": format_count, "bytes": format_bytes, "flops": format_flops}
_EVALUATIONS_SHOWN = 100

__all__ = ["LedgerRow", "Report", "Sample", "Timings", "write_report"]


def write_report(path: str | Path, report: Report) -> None:
    """Write `report` as one HTML file, whole or not at all.

    Args:
        path: The file; its folder exists. What is there is replaced in one step.
        report: What to show.

    Raises:
        OSError: If the file cannot be written.
    """
    text = page(title=f"{report.title} {MISSING} lostjax", body=_body(report))
    replace_file(path, text.encode("utf-8"))


def _body(report: Report) -> Html:
    sections = [
        ("Loss", loss_figure(report.metrics, report.evaluations)),
        ("Against text baselines", _baselines(report)),
        ("During training", training_figures(report.metrics)),
        ("Stability", stability_section(report.stability)),
        ("Memory and compute", _ledger(report.ledger)),
        ("Sample", _sample(report.sample)),
        ("Configuration", _configuration(report.configuration)),
        ("Environment", _environment(report)),
    ]
    return join(
        _head(report),
        *(
            element("section", element("h2", title), content)
            for title, content in sections
            if content
        ),
    )


def _head(report: Report) -> Html:
    facts = [
        element("div", element("dt", name), element("dd", value))
        for name, value in report.headline()
    ]
    comparison = report.compare_baselines()
    sentence = f"On the held-out text this model is {comparison}."
    return element(
        "header",
        element("p", "Training report", css="over"),
        element("h1", report.title),
        element("pre", report.command, attributes={"aria-label": "command"}),
        element("dl", *facts, css="headline"),
        element("p", sentence) if comparison else "",
    )


def _baselines(report: Report) -> Html:
    mine = report.held_out("bits_per_byte")
    values = [(n, v) for n, v in report.baselines.items() if math.isfinite(v)]
    if not values or mine is None:
        return Html("")
    entries = [(name, value, "bar") for name, value in values]
    entries.append(("this model", mine, "bar us"))
    past = report.held_out("past_bits_per_byte")
    if past is not None:
        entries.append(("this model, averaged", past, "bar us"))
    longest = max(v for _, v, _ in entries if math.isfinite(v)) or 1.0
    rows: list[tuple[str, ...]] = []
    for name, value, css in sorted(entries, key=_by_value):
        share = value / longest if math.isfinite(value) else 0.0
        width = f"width:{100 * share:.2f}%"
        strong = "us-name" if css != "bar" else ""
        rows.append(
            (
                element("span", name, css=strong),
                element("span", css=css, attributes={"style": width}),
                element("span", format_loss(value), css=strong),
            )
        )
    bars = table(
        caption="Bits per byte of the held-out text; less is better",
        head=("method", "", "bits per byte"),
        rows=rows,
        css="bars",
    )
    curve = baseline_figure(report.evaluations, report.baselines)
    return element("div", bars, curve, css="grid")


def _by_value(entry: tuple[str, float, str]) -> float:
    return entry[1] if math.isfinite(entry[1]) else math.inf


def _ledger(rows: Sequence[LedgerRow]) -> Html:
    if not rows:
        return Html("")
    cells: list[tuple[str, ...]] = []
    for row in rows:
        form = _FORMATS[row.unit]
        dense = MISSING if row.dense is None else form(row.dense)
        ratio = format_loss(row.model / row.dense) if row.dense else MISSING
        cells.append((row.name, form(row.model), dense, ratio))
    return table(
        caption="This model beside the dense model of the same shape; "
        "1 MB is 1,000,000 bytes",
        head=("quantity", "this model", "dense", "ratio"),
        rows=cells,
    )


def _sample(sample: Sample | None) -> Html:
    if sample is None:
        return Html("")
    text = element("span", sample.prompt, css="prompt") if sample.prompt else Html("")
    note = "The prompt is in bold; the model wrote the rest."
    return join(
        element("p", text, sample.continuation, css="sample"),
        element("p", note, css="note") if sample.prompt else "",
    )


def _configuration(configuration: Mapping[str, object]) -> Html:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            groups.setdefault(name, []).extend(_flatten(value, ""))
        else:
            groups.setdefault("run", []).append((name, _show(value)))
    tables = [
        table(caption=name, head=("name", "value"), rows=rows, css="pairs")
        for name, rows in groups.items()
        if rows
    ]
    return element("div", *tables, css="columns") if tables else Html("")


def _flatten(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), _show(value)


def _show(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value if value else '""'
    return json.dumps(value, default=str, ensure_ascii=False)


def _environment(report: Report) -> Html:
    times = (
        ("command to first step", report.timings.first_step),
        ("of it compiling", report.timings.compilation),
        ("total", report.timings.total),
    )
    timings: list[tuple[str, ...]] = [
        (name, format_seconds(value)) for name, value in times if value is not None
    ]
    places: list[tuple[str, ...]] = list(_flatten(report.environment, ""))
    tables = [
        table(caption=caption, head=("name", "value"), rows=rows, css="pairs")
        for caption, rows in (("machine and versions", places), ("time", timings))
        if rows
    ]
    if len(report.evaluations) > 1:
        tables.append(_evaluations(report.evaluations))
    return element("div", *tables, css="columns") if tables else Html("")


def _evaluations(evaluations: Lines) -> Html:
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
    rows: list[tuple[str, ...]] = [
        (
            f"{line['step']:,}",
            *(form(line[n]) if n in line else MISSING for _, n, form in columns),
        )
        for line in shown
    ]
    caption = f"The last {len(shown)} of {len(evaluations)} evaluations"
    inner = table(
        caption=caption if len(shown) < len(evaluations) else "Held-out text",
        head=("step", *(head for head, _, _ in columns)),
        rows=rows,
    )
    return element("details", element("summary", "All evaluations"), inner)
