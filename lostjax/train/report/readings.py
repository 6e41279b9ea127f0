"""The report's section on stability: alarms, curves of readings, and all tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.train.log.readings import LoggedReadings
from lostjax.train.report.figures import describe, draw_third
from lostjax.view.axes import Axis
from lostjax.view.curves import SERIES, Curve
from lostjax.view.numbers import MISSING, format_number
from lostjax.view.page import Drawing, Table

_STRETCHES = 180  # that a curve by layer is drawn in
_PARTS = {
    "gradient_rms": "gradient RMS",
    "parameter_rms": "parameter RMS",
    "update_rms": "update RMS",
}
_SUMMARIES: dict[str, Callable[[np.ndarray], np.floating]] = {
    "smallest": np.min,
    "median": np.median,
    "largest": np.max,
}


class Stability(NamedTuple):
    """What the section shows."""

    alarms: list[str]
    drawings: list[Drawing]
    tensors: Table
    """Every tensor at the last reading."""


def show_readings(log: Sequence[LoggedReadings]) -> Stability | None:
    """Draw and tabulate a run's readings; None if it took none."""
    if not log:
        return None
    steps = np.asarray([line.step for line in log])
    drawings = [
        _draw_logits(steps, [line.readings.attention_logits for line in log]),
        _draw_log_z(steps, [float(line.readings.mean_log_z) for line in log]),
    ]
    for name, label in _PARTS.items():
        tensors = [getattr(line.readings, name) for line in log]
        drawings.append(_draw_rms(steps, tensors, name=name, label=label))
    return Stability(
        _describe_alarms(log),
        [drawing for drawing in drawings if drawing is not None],
        _tabulate_tensors(log[-1]),
    )


def _describe_alarms(log: Sequence[LoggedReadings]) -> list[str]:
    """Count each kind of alarm, and quote its first message."""
    firsts: dict[str, LoggedReadings] = {}
    for line in log:
        for kind in line.alarms:
            firsts.setdefault(kind, line)
    return [
        f"Alarm at {sum(kind in line.alarms for line in log):,} of {len(log):,} "
        f"readings, first at step {first.step:,}: {first.alarms[kind]}."
        for kind, first in firsts.items()
    ]


def _draw_logits(steps: np.ndarray, logits: Sequence[np.ndarray]) -> Drawing | None:
    """Draw a curve a layer, from the first to the last in shades."""
    logits_PL = np.asarray(logits)
    if not logits_PL.size:
        return None
    starts = np.arange(0, len(steps), -(-len(steps) // _STRETCHES))
    largest_PL = np.maximum.reduceat(logits_PL, starts, axis=0)
    layers = range(logits_PL.shape[1])
    named = layers if len(layers) <= len(SERIES) else (0, layers[-1])
    curves = [
        Curve(f"layer {n}" if n in named else "", steps[starts], largest_PL[:, n])
        for n in layers
    ]
    whole = Curve("", steps, logits_PL.max(axis=1))
    return draw_third(
        curves,
        Axis("attention logit", log=True, from_zero=True),
        name="attention-logits",
        description=describe(whole, "Largest attention logit", format_number),
    )


def _draw_log_z(steps: np.ndarray, values: Sequence[float]) -> Drawing | None:
    curve = Curve("", steps, np.asarray(values))
    return draw_third(
        [curve],
        Axis("mean log Z"),
        name="mean-log-z",
        description=describe(curve, "Mean log Z", format_number),
    )


def _draw_rms(
    steps: np.ndarray,
    tensors: Sequence[Mapping[str, np.ndarray]],
    *,
    name: str,
    label: str,
) -> Drawing | None:
    """Draw the smallest, median and largest over all tensors and layers."""
    values = [np.concatenate([np.ravel(x) for x in by.values()]) for by in tensors]
    curves = [
        Curve(word, steps, np.asarray([summary(x) for x in values]))
        for word, summary in _SUMMARIES.items()
    ]
    words = [describe(c, f"{label}, {c.label}", format_number) for c in curves]
    return draw_third(
        curves,
        Axis(label, log=True, from_zero=True),
        name=name,
        description=" ".join(words),
    )


def _tabulate_tensors(line: LoggedReadings) -> Table:
    """List every tensor at one reading, all its layers together."""
    readings = line.readings
    rows = []
    for path, gradient in readings.gradient_rms.items():
        parameter, update = (
            _join_layers(by[path])
            for by in (readings.parameter_rms, readings.update_rms)
        )
        share = format_number(update / parameter) if parameter else MISSING
        numbers = (_join_layers(gradient), float(np.min(gradient)), parameter, update)
        rows.append((path, *map(format_number, numbers), share))
    return Table(
        f"Root mean squares at step {line.step:,}, over all layers",
        (
            "tensor",
            "gradient",
            "least layer",
            "parameter",
            "update",
            "update / parameter",
        ),
        rows,
    )


def _join_layers(rms: np.ndarray) -> float:
    """Join the root mean squares of layers, which are equally large."""
    return float(np.sqrt(np.mean(np.square(rms))))
