"""The report's section on stability: alarms, curves of readings, and all tensors."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from lostjax.train.log.readings import LoggedReadings
from lostjax.train.report.figures import draw_third, join_thirds, tell
from lostjax.view import SERIES, Curve
from lostjax.view.html import Html, element, join, table
from lostjax.view.numbers import MISSING, format_number

_STRETCHES = 180  # that a curve by layer is drawn in
_NOTE = (
    "Attention logits are the largest of each layer. RMS is the root mean square of a "
    "tensor in a layer: of gradients before clipping, of parameters before the update, "
    "and of the update; the curves are the smallest, median and largest of all. On an "
    "axis of decades there is no zero."
)
_PARTS = {
    "gradient_rms": "gradient RMS",
    "parameter_rms": "parameter RMS",
    "update_rms": "update RMS",
}


def stability_section(log: Sequence[LoggedReadings]) -> Html:
    """Show a run's readings; nothing where it took none."""
    if not log:
        return Html("")
    steps = np.asarray([line.step for line in log])
    log_z = Curve("", steps, np.asarray([float(x.readings.mean_log_z) for x in log]))
    figures = [
        _draw_logits(steps, [line.readings.attention_logits for line in log]),
        draw_third(
            [log_z],
            name="mean-log-z",
            y_label="mean log Z",
            description=tell(log_z, "Mean log Z", format_number),
        ),
    ]
    for name, label in _PARTS.items():
        tensors = [getattr(line.readings, name) for line in log]
        figures.append(_draw_rms(steps, tensors, name=name, label=label))
    return join(
        *_alarms(log),
        join_thirds(figures),
        element("p", _NOTE, css="note"),
        _tensors(log[-1]),
    )


def _alarms(log: Sequence[LoggedReadings]) -> list[Html]:
    """Say of each kind of alarm how often it rang, and what it said first."""
    firsts: dict[str, LoggedReadings] = {}
    for line in log:
        for kind in line.alarms:
            firsts.setdefault(kind, line)
    return [
        element(
            "p",
            f"Alarm at {sum(kind in line.alarms for line in log):,} of {len(log):,} "
            f"readings, first at step {first.step:,}: {first.alarms[kind]}.",
            css="alarm",
        )
        for kind, first in firsts.items()
    ]


def _draw_logits(steps: np.ndarray, logits: Sequence[np.ndarray]) -> Html:
    """Draw a curve a layer, from the first to the last in shades."""
    logits_PL = np.asarray(logits)
    if not logits_PL.size:
        return Html("")
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
        name="attention-logits",
        y_label="attention logit",
        description=tell(whole, "Largest attention logit", format_number),
        log=True,
        from_zero=True,
    )


def _draw_rms(
    steps: np.ndarray,
    tensors: Sequence[Mapping[str, np.ndarray]],
    *,
    name: str,
    label: str,
) -> Html:
    """Draw the smallest, median and largest over all tensors and layers."""
    values = [np.concatenate([np.ravel(x) for x in by.values()]) for by in tensors]
    summaries: dict[str, Callable[[np.ndarray], np.floating]] = {
        "smallest": np.min,
        "median": np.median,
        "largest": np.max,
    }
    curves = [
        Curve(word, steps, np.asarray([summary(x) for x in values]))
        for word, summary in summaries.items()
    ]
    sentence = partial(tell, form=format_number)
    return draw_third(
        curves,
        name=name,
        y_label=label,
        description=" ".join(sentence(c, f"{label}, {c.label}") for c in curves),
        log=True,
        from_zero=True,
    )


def _tensors(line: LoggedReadings) -> Html:
    """List every tensor at one reading, all its layers together."""
    readings = line.readings
    rows: list[tuple[str, ...]] = []
    for path, gradient in readings.gradient_rms.items():
        parameter, update = (
            _over_layers(by[path])
            for by in (readings.parameter_rms, readings.update_rms)
        )
        share = format_number(update / parameter) if parameter else MISSING
        numbers = (_over_layers(gradient), float(np.min(gradient)), parameter, update)
        rows.append((path, *map(format_number, numbers), share))
    inner = table(
        caption=f"Root mean squares at step {line.step:,}, over all layers",
        head=(
            "tensor",
            "gradient",
            "least layer",
            "parameter",
            "update",
            "update / parameter",
        ),
        rows=rows,
    )
    return element("details", element("summary", "All tensors"), inner)


def _over_layers(rms: np.ndarray) -> float:
    """Join the root mean squares of layers, which are equally large."""
    return float(np.sqrt(np.mean(np.square(rms))))
