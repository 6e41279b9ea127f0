"""The curves that a report shows, drawn from a run's metrics and evaluations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.view.axes import Axis, Levels
from lostjax.view.curves import BINS, Curve, draw_curves
from lostjax.view.numbers import format_count, format_loss, format_number
from lostjax.view.page import Drawing

Lines = Sequence[Mapping[str, float | int]]
"""What `read_metrics` or `read_evaluations` returns."""

STEP = Axis("step", from_zero=True, whole=True)

_WIDE = (984, 360)
_PHONE = (380, 290)
_HALF = (472, 330)
_THIRD = (304, 230)
_BAND = (
    "Of many steps the line is the mean of each stretch; the band spans their lowest "
    "and highest values."
)


class Chart(NamedTuple):
    """How one metric of training is drawn; log if its values span decades."""

    axis: Axis
    form: Callable[[float], str] = format_number


_CHARTS = {
    "learning_rate": Chart(Axis("learning rate", from_zero=True)),
    "gradient_norm": Chart(Axis("gradient norm", log=True)),
    "tokens_per_second": Chart(Axis("tokens per second", from_zero=True), format_count),
    "trajectory": Chart(Axis("divergence from the past, nats", from_zero=True)),
}
_DRAWN_ELSEWHERE = frozenset(
    {"step", "loss", "tokens", "time", "elapsed", "step_seconds", "mfu"}
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


def draw_loss(metrics: Lines, evaluations: Lines) -> Drawing | None:
    """Draw training and held-out loss; None if there is neither."""
    train = pick_curve(metrics, "loss", label="training")
    held = pick_curve(evaluations, "eval_loss", label="held-out", sparse=True)
    past = pick_curve(
        evaluations, "eval_past_loss", label="held-out, average", sparse=True
    )
    curves = [curve for curve in (train, held, past) if len(curve.x)]
    if not curves:
        return None
    words = f"Loss by step. {describe(train, 'Training loss', format_loss)}"
    if len(held.x):
        words += " " + describe(held, "Held-out loss", format_loss)
    if len(past.x):
        words += " " + describe(past, "That of the moving average", format_loss)
    drawing = _draw_for_both_widths(
        curves, name="loss", description=words, y=Axis("loss (nats per token)")
    )
    return drawing._replace(
        note=_BAND if len(train.x) > 2 * BINS else "", alarm=_describe_bad_steps(train)
    )


def draw_bits_per_byte(
    evaluations: Lines, baselines: Mapping[str, float | int]
) -> Drawing | None:
    """Draw held-out bits per byte coming down through the baselines.

    Returns:
      The drawing; None for fewer than two evaluations.
    """
    curve = pick_curve(evaluations, "eval_bits_per_byte", label="model", sparse=True)
    past = pick_curve(
        evaluations, "eval_past_bits_per_byte", label="average", sparse=True
    )
    if len(curve.x) < 2:
        return None
    levels = {name: value for name, value in baselines.items() if math.isfinite(value)}
    words = describe(curve, "Held-out bits per byte", format_loss) + "".join(
        f" {name}: {format_loss(value)}." for name, value in levels.items()
    )
    return _draw_for_both_widths(
        [curve, past] if len(past.x) else [curve],
        name="bits",
        description=words,
        y=Axis("held-out bits per byte"),
        wide=_HALF,
        levels=levels,
    )


def draw_training(metrics: Lines) -> list[Drawing]:
    """Draw learning rate, gradient norm and throughput, then every other metric.

    The other metrics depend on the objective: each of its terms has one.
    """
    others = {name for line in metrics for name in line} - _DRAWN_ELSEWHERE
    charts = _CHARTS | {
        name: Chart(Axis(name.replace("_", " "), from_zero=True))
        for name in sorted(others - set(_CHARTS))
    }
    drawings = []
    for name, chart in charts.items():
        curve = pick_curve(metrics, name)
        words = describe(curve, chart.axis.label.capitalize(), chart.form)
        drawings.append(draw_third([curve], chart.axis, name=name, description=words))
    return [drawing for drawing in drawings if drawing is not None]


def draw_third(
    curves: Sequence[Curve], y: Axis, *, name: str, description: str
) -> Drawing | None:
    """Draw curves over steps, a third as wide as the page.

    Args:
      curves: as for `draw_curves`.
      y: the vertical axis; it is linear unless the values span decades, and begins at
        zero only if no value is negative.
      name: unique in the page.
      description: text for a reader who does not see the drawing.

    Returns:
      The drawing; None if no value is finite.
    """
    values = np.concatenate([curve.y for curve in curves])
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    y = y._replace(
        log=y.log and _span_decades(finite),
        from_zero=y.from_zero and bool(finite.min() >= 0),
    )
    return Drawing(
        draw_curves(
            curves, name=name, description=description, x=STEP, y=y, size=_THIRD
        )
    )


def describe(curve: Curve, words: str, form: Callable[[float], str]) -> str:
    """Describe a curve over steps in a sentence, for those who do not see it.

    Args:
      curve: the curve.
      words: the quantity, as the start of a sentence.
      form: formats a value.
    """
    finite = np.flatnonzero(np.isfinite(curve.y))
    if not len(finite):
        return f"{words}: no finite value."
    first, last = finite[0], finite[-1]
    ends = f"{form(curve.y[first])} at step {curve.x[first]:,}"
    if last > first:
        ends += f", {form(curve.y[last])} at step {curve.x[last]:,}"
    low, high = np.min(curve.y[finite]), np.max(curve.y[finite])
    return f"{words}: {ends}; between {form(low)} and {form(high)}."


def _draw_for_both_widths(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    y: Axis,
    wide: tuple[int, int] = _WIDE,
    levels: Levels | None = None,
) -> Drawing:
    """Draw for a wide page and for a phone; the style shows one of the two."""
    on_page, on_phone = (
        draw_curves(
            curves,
            name=f"{name}-{size[0]}",
            description=description,
            x=STEP,
            y=y,
            size=size,
            levels=levels or {},
        )
        for size in (wide, _PHONE)
    )
    return Drawing(on_page, on_phone)


def _describe_bad_steps(curve: Curve) -> str:
    bad = curve.x[~np.isfinite(curve.y)]
    if not len(bad):
        return ""
    return (
        f"The loss was not finite at {len(bad):,} of {len(curve.x):,} steps, "
        f"first at step {bad[0]:,} (marked on the axis)."
    )


def _span_decades(values: np.ndarray) -> bool:
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() > 30 * positive.min())
