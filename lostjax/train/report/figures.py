"""The curves that a report shows, drawn from a run's metrics and evaluations."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.view import BINS, Curve, draw_curves
from lostjax.view.html import Html, element
from lostjax.view.numbers import format_count, format_loss, format_number

Lines = Sequence[Mapping[str, float | int]]
"""What `read_metrics` or `read_evaluations` gives."""

_WIDE = (984, 360)
_PHONE = (380, 290)
_HALF = (472, 330)
_THIRD = (304, 230)


class Chart(NamedTuple):
    """How one metric of training is drawn."""

    label: str
    form: Callable[[float], str] = format_number
    log: bool = False
    """Where its values span decades."""
    from_zero: bool = True


_CHARTS = {
    "learning_rate": Chart("learning rate"),
    "gradient_norm": Chart("gradient norm", log=True, from_zero=False),
    "tokens_per_second": Chart("tokens per second", format_count),
    "trajectory": Chart("divergence from the past, nats"),
}
_DRAWN_ELSEWHERE = frozenset(
    {"step", "loss", "tokens", "time", "step_seconds", "mfu"}
    | {"skipped", "skipped_total", "passed_over"}
    | {"mean_log_z", "max_attention_logit", "smallest_gradient_rms"}
)
"""Or not worth a drawing, as the clock and what is in proportion to another."""


def pick_curve(
    lines: Lines, name: str, *, label: str = "", sparse: bool = False
) -> Curve:
    """Take the lines that hold `name`, in the order of their steps."""
    have = sorted((line["step"], line[name]) for line in lines if name in line)
    steps = np.asarray([step for step, _ in have], dtype=np.int64)
    values = np.asarray([value for _, value in have], dtype=np.float64)
    return Curve(label, steps, values, sparse)


def loss_figure(metrics: Lines, evaluations: Lines) -> Html:
    """Draw training and held-out loss, once wide and once for a phone."""
    train = pick_curve(metrics, "loss", label="training")
    held = pick_curve(evaluations, "eval_loss", label="held-out", sparse=True)
    past = pick_curve(
        evaluations, "eval_past_loss", label="held-out, average", sparse=True
    )
    curves = [curve for curve in (train, held, past) if len(curve.steps)]
    if not curves:
        return Html("")
    words = f"Loss by step. {tell(train, 'Training loss', format_loss)}"
    if len(held.steps):
        words += " " + tell(held, "Held-out loss", format_loss)
    if len(past.steps):
        words += " " + tell(past, "That of the moving average", format_loss)
    drawings = _for_each_width(
        curves,
        name="loss",
        description=words,
        wide=_WIDE,
        y_label="loss (nats per token)",
        levels={},
    )
    note = ""
    if len(train.steps) > 2 * BINS:
        words = "Of many steps the line is the mean of each stretch; the band "
        note = element("figcaption", words + "spans their lowest and highest values.")
    return element("figure", *drawings, note, _bad_steps(train))


def baseline_figure(evaluations: Lines, baselines: Mapping[str, float | int]) -> Html:
    """Draw held-out bits per byte coming down through the baselines."""
    curve = pick_curve(evaluations, "eval_bits_per_byte", label="model", sparse=True)
    past = pick_curve(
        evaluations, "eval_past_bits_per_byte", label="average", sparse=True
    )
    if len(curve.steps) < 2:
        return Html("")
    levels = {name: value for name, value in baselines.items() if math.isfinite(value)}
    words = tell(curve, "Held-out bits per byte", format_loss) + "".join(
        f" {name}: {format_loss(value)}." for name, value in levels.items()
    )
    drawings = _for_each_width(
        [curve, past] if len(past.steps) else [curve],
        name="bits",
        description=words,
        wide=_HALF,
        y_label="held-out bits per byte",
        levels=levels,
    )
    return element("figure", *drawings)


def training_figures(metrics: Lines) -> Html:
    """Draw learning rate, gradient norm and throughput, then what else was measured.

    What else there is depends on the objective: each of its terms has a metric.
    """
    others = {name for line in metrics for name in line} - _DRAWN_ELSEWHERE
    charts = _CHARTS | {
        name: Chart(name.replace("_", " ")) for name in sorted(others - set(_CHARTS))
    }
    return join_thirds(
        draw_third(
            [pick_curve(metrics, name)],
            name=name,
            y_label=chart.label,
            description=tell(
                pick_curve(metrics, name), chart.label.capitalize(), chart.form
            ),
            log=chart.log,
            from_zero=chart.from_zero,
        )
        for name, chart in charts.items()
    )


def draw_third(
    curves: Sequence[Curve],
    *,
    name: str,
    y_label: str,
    description: str,
    log: bool = False,
    from_zero: bool = False,
) -> Html:
    """Draw a figure a third as wide as the page; nothing where no value is finite.

    Args:
        curves: As `draw_curves` takes them.
        name: Unique in the page.
        y_label: Quantity and unit.
        description: What a reader who does not see it is told.
        log: Whether the vertical axis is logarithmic where the values span decades.
        from_zero: Whether a linear one begins at zero, or lower for lower values.
    """
    values = np.concatenate([curve.values for curve in curves])
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Html("")
    drawing = draw_curves(
        curves,
        name=name,
        description=description,
        y_label=y_label,
        size=_THIRD,
        log=log and _span_decades(finite),
        from_zero=from_zero and bool(finite.min() >= 0),
    )
    return element("figure", Html(drawing))


def join_thirds(figures: Iterable[Html]) -> Html:
    """Set figures of a third side by side; nothing where there are none."""
    drawn = [figure for figure in figures if figure]
    return element("div", *drawn, css="grid thirds") if drawn else Html("")


def _for_each_width(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    y_label: str,
    wide: tuple[int, int],
    levels: Mapping[str, float | int],
) -> list[Html]:
    """Draw for a wide page and for a phone; the style shows one of the two."""
    return [
        element(
            "div",
            Html(
                draw_curves(
                    curves,
                    name=f"{name}-{css}",
                    description=description,
                    y_label=y_label,
                    size=size,
                    levels=levels,
                )
            ),
            css=css,
        )
        for css, size in (("wide", wide), ("narrow", _PHONE))
    ]


def _bad_steps(curve: Curve) -> Html:
    bad = curve.steps[~np.isfinite(curve.values)]
    if not len(bad):
        return Html("")
    return element(
        "figcaption",
        f"The loss was not finite at {len(bad):,} of {len(curve.steps):,} steps, "
        f"first at step {bad[0]:,} (marked on the axis).",
        css="alarm",
    )


def _span_decades(values: np.ndarray) -> bool:
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() > 30 * positive.min())


def tell(curve: Curve, words: str, form: Callable[[float], str]) -> str:
    """Say in a sentence what the curve does, for those who do not see it."""
    finite = np.flatnonzero(np.isfinite(curve.values))
    if not len(finite):
        return f"{words}: no finite value."
    first, last = finite[0], finite[-1]
    ends = f"{form(curve.values[first])} at step {curve.steps[first]:,}"
    if last > first:
        ends += f", {form(curve.values[last])} at step {curve.steps[last]:,}"
    low, high = np.nanmin(curve.values[finite]), np.nanmax(curve.values[finite])
    return f"{words}: {ends}; between {form(low)} and {form(high)}."
