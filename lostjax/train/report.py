"""The report of a run: what it came to, as one HTML file that needs nothing else.

`Report` is plain data; `write_report` turns it into a page with a headline, curves,
the comparison with text baselines, the memory ledger, a sample and the configuration.
The file asks for nothing from a network, follows the reader's light or dark scheme,
fits a phone, and stays under 1.5 MB however many steps the run had.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lostjax.train.curves import (
    Lines,
    baseline_figure,
    loss_figure,
    training_figures,
)
from lostjax.train.files import replace_file
from lostjax.train.page import Html, element, join, page, table
from lostjax.train.quantities import (
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


@dataclass(frozen=True)
class LedgerRow:
    """One quantity of this model beside the dense model of the same shape.

    `dense` is None where there is nothing to compare with.
    """

    name: str
    model: float | int
    dense: float | int | None = None
    unit: Literal["count", "bytes", "flops"] = "bytes"


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class Timings:
    """Seconds from the command to the first finished step, of it compiling, in all."""

    first_step: float | None = None
    compilation: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class Report:
    """All that a report shows. What is empty or None is left out of the page.

    `metrics` and `evaluations` are what `read_metrics` and `read_evaluations` give. Of
    metrics `loss`, `learning_rate`, `gradient_norm` and `tokens_per_second` are drawn.
    `parameters` counts this model's; `baselines` are bits per byte on the held-out
    text by the name of a method.
    """

    title: str
    command: str
    configuration: Mapping[str, object]
    metrics: Lines
    evaluations: Lines = ()
    parameters: int | None = None
    tokens_seen: int | None = None
    ledger: Sequence[LedgerRow] = ()
    baselines: Mapping[str, float] = field(default_factory=dict)
    sample: Sample | None = None
    environment: Mapping[str, object] = field(default_factory=dict)
    timings: Timings = Timings()

    def held_out(self, name: str) -> float | None:
        """Give `eval_NAME` of the last evaluation that has it."""
        have = [line for line in self.evaluations if f"eval_{name}" in line]
        return float(have[-1][f"eval_{name}"]) if have else None

    def headline(self) -> list[tuple[str, str]]:
        """Give what the run came to as (name, value), most important first."""
        facts = [
            ("held-out bits per byte", self.held_out("bits_per_byte"), format_loss),
            ("held-out perplexity", self.held_out("perplexity"), format_perplexity),
            ("held-out loss, nats per token", self.held_out("loss"), format_loss),
        ]
        if not self.evaluations and self.metrics:
            last = float(self.metrics[-1]["loss"])
            facts = [("training loss, last step", last, format_loss)]
        facts += [
            ("parameters", self.parameters, format_count),
            ("tokens seen", self.tokens_seen, format_count),
            ("time", self.timings.total, format_seconds),
        ]
        return [(name, form(value)) for name, value, form in facts if value is not None]

    def compare_baselines(self) -> str:
        """Say in a sentence where the model stands among the baselines, or ''."""
        mine = self.held_out("bits_per_byte")
        known = {k: v for k, v in self.baselines.items() if math.isfinite(v)}
        if mine is None or not math.isfinite(mine) or not known:
            return ""
        beaten = {name: value for name, value in known.items() if mine < value}
        left = {name: value for name, value in known.items() if mine >= value}
        text = f"better than {len(beaten)} of {len(known)} baselines"
        if left:
            name, value = max(left.items(), key=lambda item: item[1])
            text += f"; next: {name} ({format_loss(value)})"
        else:
            name, value = min(beaten.items(), key=lambda item: item[1])
            text += f"; the best: {name} ({format_loss(value)})"
        return text

    def summary(self) -> list[tuple[str, str]]:
        """Give the lines that the terminal shows at the end, as (name, value)."""
        comparison = self.compare_baselines()
        rows = [("model", self.title), *self.headline()]
        return rows + ([("baselines", comparison)] if comparison else [])


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
        ("Ledger", _ledger(report.ledger)),
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
    return element(
        "header",
        element("p", "Training report", css="over"),
        element("h1", report.title),
        element("pre", report.command, attributes={"aria-label": "command"}),
        element("dl", *facts, css="headline"),
        element("p", f"On the held-out text {comparison}.") if comparison else "",
    )


def _baselines(report: Report) -> Html:
    mine = report.held_out("bits_per_byte")
    values = [(n, v) for n, v in report.baselines.items() if math.isfinite(v)]
    if not values:
        return Html("")
    entries = [(name, value, "bar") for name, value in values]
    if mine is not None and math.isfinite(mine):
        entries.append(("this model", mine, "bar us"))
    longest = max(value for _, value, _ in entries) or 1.0
    rows: list[tuple[str, ...]] = []
    for name, value, css in sorted(entries, key=lambda entry: entry[1]):
        width = f"width:{100 * max(value, 0) / longest:.2f}%"
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
    note = "The prompt is coloured; the model wrote the rest."
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
    columns = (
        ("eval_loss", format_loss),
        ("eval_perplexity", format_perplexity),
        ("eval_bits_per_byte", format_loss),
    )
    rows: list[tuple[str, ...]] = [
        (
            f"{line['step']:,}",
            *(form(line[n]) if n in line else MISSING for n, form in columns),
        )
        for line in shown
    ]
    caption = f"The last {len(shown)} of {len(evaluations)} evaluations"
    inner = table(
        caption=caption if len(shown) < len(evaluations) else "Held-out text",
        head=("step", "loss", "perplexity", "bits per byte"),
        rows=rows,
    )
    return element("details", element("summary", "All evaluations"), inner)
