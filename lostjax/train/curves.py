"""The curves that a report shows, drawn from a run's metrics and evaluations."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lostjax.train.figures import BINS, Curve, draw_curves
from lostjax.train.page import Html, element
from lostjax.train.quantities import format_count, format_loss, format_number

Lines = Sequence[Mapping[str, float | int]]
"""What `read_metrics` or `read_evaluations` gives."""

_WIDE = (984, 360)
_PHONE = (380, 290)
_HALF = (472, 330)
_THIRD = (304, 230)


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
    curves = [curve for curve in (train, held) if len(curve.steps)]
    if not curves:
        return Html("")
    words = f"Loss by step. {_tell(train, 'Training loss', format_loss)}"
    if len(held.steps):
        words += " " + _tell(held, "Held-out loss", format_loss)
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
    curve = pick_curve(evaluations, "eval_bits_per_byte", sparse=True)
    if len(curve.steps) < 2:
        return Html("")
    levels = {name: value for name, value in baselines.items() if math.isfinite(value)}
    words = _tell(curve, "Held-out bits per byte", format_loss) + "".join(
        f" {name}: {format_loss(value)}." for name, value in levels.items()
    )
    drawings = _for_each_width(
        [curve],
        name="bits",
        description=words,
        wide=_HALF,
        y_label="held-out bits per byte",
        levels=levels,
    )
    return element("figure", *drawings)


def training_figures(metrics: Lines) -> Html:
    """Draw learning rate, gradient norm and throughput, whichever the lines hold."""
    charts: list[tuple[str, str, str, Callable[[float], str]]] = [
        ("learning_rate", "learning rate", "Learning rate", format_number),
        ("gradient_norm", "gradient norm", "Gradient norm", format_number),
        ("tokens_per_second", "tokens per second", "Tokens per second", format_count),
    ]
    figures = []
    for name, y_label, words, form in charts:
        curve = pick_curve(metrics, name)
        if not np.isfinite(curve.values).any():
            continue
        drawing = draw_curves(
            [curve],
            name=name,
            description=_tell(curve, words, form),
            y_label=y_label,
            size=_THIRD,
            log=name == "gradient_norm" and _spans_decades(curve.values),
            from_zero=name != "gradient_norm",
        )
        figures.append(element("figure", Html(drawing)))
    return element("div", *figures, css="grid thirds") if figures else Html("")


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


def _spans_decades(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite > 0).all() and finite.max() > 30 * finite.min())


def _tell(curve: Curve, words: str, form: Callable[[float], str]) -> str:
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
