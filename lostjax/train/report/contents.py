"""The contents of a report, as plain data: page and terminal show the same facts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lostjax.train.log.readings import LoggedReadings
from lostjax.train.report.figures import Lines
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


@dataclass(frozen=True)
class LedgerRow:
    """One quantity of this model beside the dense model of the same shape.

    `dense` is None if there is nothing to compare with.
    """

    name: str
    model: float | int
    dense: float | int | None = None
    unit: Literal["count", "bytes", "flops"] = "bytes"

    def cells(self) -> tuple[str, str, str, str]:
        """Return name, this model, dense model and their ratio as text."""
        form = _FORMATS[self.unit]
        dense = MISSING if self.dense is None else form(self.dense)
        ratio = format_loss(self.model / self.dense) if self.dense else MISSING
        return self.name, form(self.model), dense, ratio


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    continuation: str


@dataclass(frozen=True)
class Timings:
    """Durations of a run, seconds; None if not measured."""

    first_step: float | int | None = None
    """From the command to the end of the first step."""
    compilation: float | int | None = None
    """The part of `first_step` that is compiling."""
    total: float | int | None = None


@dataclass(frozen=True)
class Report:
    """All that a report shows; the page leaves out what is empty or None.

    `metrics`, `evaluations` and `stability` are what `read_metrics`, `read_evaluations`
    and `read_stability` return. All metrics except those of the clock are drawn.
    `parameters` counts this model's; `baselines` are bits per byte on the held-out
    text by the name of a method.
    """

    title: str
    command: str
    configuration: Mapping[str, object]
    metrics: Lines
    evaluations: Lines = ()
    stability: Sequence[LoggedReadings] = ()
    parameters: int | None = None
    tokens_seen: int | None = None
    ledger: Sequence[LedgerRow] = ()
    baselines: Mapping[str, float | int] = field(default_factory=dict)
    sample: Sample | None = None
    text: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    timings: Timings = Timings()

    def held_out(self, name: str) -> float | None:
        """Return `eval_NAME` of the last evaluation that has it."""
        have = [line for line in self.evaluations if f"eval_{name}" in line]
        return float(have[-1][f"eval_{name}"]) if have else None

    def headline(self) -> list[tuple[str, str]]:
        """Return the results as (name, value), most important first."""
        facts = [
            ("held-out bits per byte", self.held_out("bits_per_byte"), format_loss),
            ("held-out perplexity", self.held_out("perplexity"), format_perplexity),
            ("held-out loss, nats", self.held_out("loss"), format_loss),
        ]
        if not self.evaluations and self.metrics:
            last = float(self.metrics[-1]["loss"])
            facts = [("training loss, last step", last, format_loss)]
        last_line = self.metrics[-1] if self.metrics else {}
        facts += [
            ("updates not taken", last_line.get("skipped_total") or None, format_count),
            ("batches passed over", last_line.get("passed_over") or None, format_count),
            ("parameters", self.parameters, format_count),
            ("tokens seen", self.tokens_seen, format_count),
            ("time", self.timings.total, format_seconds),
        ]
        return [(name, form(value)) for name, value, form in facts if value is not None]

    def compare_baselines(self) -> str:
        """Describe the model's place among the baselines; '' if there are none."""
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
        """Return the lines that the terminal shows at the end, as (name, value)."""
        comparison = self.compare_baselines()
        rows = [("model", self.title), *self.headline()]
        return rows + ([("comparison", comparison)] if comparison else [])
