"""The result of unlearning: numbers for JSON, and a page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lostjax.unlearn.forgetting import Check
from lostjax.unlearn.measure import Measures
from lostjax.unlearn.relearning import Relearning
from lostjax.view.axes import Axis
from lostjax.view.curves import Curve, draw_curves
from lostjax.view.numbers import MISSING, format_loss
from lostjax.view.page import Drawing, Table, render_page

_SIZE = (560, 320)
_NARROW = (340, 260)
_NAMES = {
    "probability": "forgotten: probability of the answers",
    "exact_match": "forgotten: answers recited exactly",
    "membership": "forgotten: membership AUC (.5 is none)",
    "bits_per_byte": "held-out text: bits per byte",
    "near_probability": "neighbours: probability of the answers",
    "near_exact_match": "neighbours: answers recited exactly",
    "kept_probability": "retained: probability of the answers",
    "kept_exact_match": "retained: answers recited exactly",
}
"""What each measure is called in the page."""


class Sample(NamedTuple):
    """A prompt and what follows it."""

    kind: str
    prompt: str
    answer: str
    """As the examples have it."""
    before: str
    after: str


class Unlearning(NamedTuple):
    """What was done and measured."""

    title: str
    method: str
    facts: Sequence[tuple[str, str]]
    """Settings by name, as they are read."""
    n_forget: int
    history: Sequence[Check]
    is_stopped: bool
    before: Measures
    after: Measures
    retrained: Measures | None
    relearning: Relearning
    retrained_relearning: Relearning | None
    samples: Sequence[Sample]
    notes: Sequence[str]

    def gaps(self) -> dict[str, float]:
        """Return the distances to the retrained model: two of what is forgotten, two of
        utility."""
        if self.retrained is None:
            return {}
        near = "near" if self.after.near_probability is not None else "kept"
        names = ("probability", "membership", "bits_per_byte", f"{near}_probability")
        pairs = {
            name: (getattr(self.after, name), getattr(self.retrained, name))
            for name in names
        }
        return {
            name: abs(ours - theirs)
            for name, (ours, theirs) in pairs.items()
            if ours is not None and theirs is not None
        }


def describe(result: Unlearning) -> str:
    """Write what was forgotten, what it cost and whether it came back as sentences."""
    before, after = result.before, result.after
    rise = 100 * (after.bits_per_byte / before.bits_per_byte - 1)
    text = (
        f"The probability of the forgotten answers went from {before.probability:.3f} "
        f"to {after.probability:.3f}; held-out bits per byte changed by {rise:+.1f} %."
    )
    if result.is_stopped:
        text += f" The budget of utility ended it at step {result.history[-1].step}."
    return f"{text} {_describe_relearning(result)}"


def _describe_relearning(result: Unlearning) -> str:
    """Write when the answers that are not taught again are half of the way back."""
    curve, before = result.relearning, result.before.probability
    if not curve.probability[0] < 0.9 * before:
        return "Hardly anything was forgotten that could come back."
    step = curve.steps_to((curve.probability[0] + before) / 2)
    if step is None:
        return (
            "Teaching a tenth of the answers again does not bring the others half of "
            f"the way back in {curve.steps[-1]} steps."
        )
    return (
        "Teaching a tenth of the answers again brings the others half of the way back "
        f"in {step} steps."
    )


def list_values(result: Unlearning) -> dict[str, Any]:
    """List the numbers, for JSON."""
    return {
        "run": result.title,
        "method": result.method,
        "settings": dict(result.facts),
        "examples": result.n_forget,
        "stopped_by_budget": result.is_stopped,
        "history": [_finite_all(each._asdict()) for each in result.history],
        "before": _finite_all(result.before._asdict()),
        "after": _finite_all(result.after._asdict()),
        "retrained": None
        if result.retrained is None
        else _finite_all(result.retrained._asdict()),
        "gaps": _finite_all(result.gaps()),
        "relearning": result.relearning._asdict(),
        "retrained_relearning": None
        if result.retrained_relearning is None
        else result.retrained_relearning._asdict(),
        "samples": [each._asdict() for each in result.samples],
    }


def render_unlearning(result: Unlearning) -> str:
    """Render the page."""
    before, after = result.before, result.after
    rise = 100 * (after.bits_per_byte / before.bits_per_byte - 1)
    headline = [
        ("method", result.method),
        (
            "probability of the forgotten",
            f"{before.probability:.3f} → {after.probability:.3f}",
        ),
        (
            "recited exactly",
            f"{_percent(before.exact_match)} → {_percent(after.exact_match)}",
        ),
        ("held-out bits per byte", f"{rise:+.1f} %"),
    ]
    return render_page(
        "unlearn.html",
        {
            "title": result.title,
            "headline": headline,
            "finding": describe(result),
            "measures": _tabulate(result),
            "drawings": [_draw_progress(result), _draw_relearning(result)],
            "samples": result.samples,
            "settings": Table(
                "Settings", ["setting", "value"], [list(each) for each in result.facts]
            ),
            "notes": result.notes,
        },
    )


def _tabulate(result: Unlearning) -> Table:
    head = ["measure", "before", "after"]
    gaps = result.gaps()
    if result.retrained is not None:
        head += ["retrained", "gap"]
    rows = []
    for name, label in _NAMES.items():
        values = [getattr(each, name) for each in (result.before, result.after)]
        if values[0] is None:
            continue
        row = [label, *(_format(name, value) for value in values)]
        if result.retrained is not None:
            gap = gaps.get(name)
            row += [
                _format(name, getattr(result.retrained, name)),
                MISSING if gap is None else f"{gap:.3f}",
            ]
        rows.append(row)
    return Table(f"Before and after, {result.n_forget} forgotten examples", head, rows)


def _draw_progress(result: Unlearning) -> Drawing:
    seen = [each for each in result.history if math.isfinite(each.probability)]
    steps = np.array([float(each.step) for each in seen])
    start = result.before.bits_per_byte
    curves = [
        Curve(
            "forgotten",
            steps,
            np.array([each.probability for each in seen]),
            sparse=True,
        ),
        Curve(
            "held-out text",
            steps,
            # As a share of what it was: bits per byte of the start over those now.
            np.array([start / each.bits_per_byte for each in seen]),
            sparse=True,
        ),
    ]
    return _draw(
        curves,
        name="progress",
        description="Forgetting and utility by step.",
        x=Axis("step", from_zero=True),
        y=Axis("probability; share of utility", from_zero=True),
        note="Utility: bits per byte of the model before, over those of the step.",
    )


def _draw_relearning(result: Unlearning) -> Drawing:
    named = [("unlearned", result.relearning)]
    if result.retrained_relearning is not None:
        named.append(("retrained", result.retrained_relearning))
    curves = [
        Curve(
            label,
            np.array(curve.steps, float),
            np.array(curve.probability),
            sparse=True,
        )
        for label, curve in named
    ]
    return _draw(
        curves,
        name="relearning",
        description="Probability of the forgotten answers while a tenth is taught.",
        x=Axis("steps on a tenth of the forgotten", from_zero=True),
        y=Axis("probability of the others", from_zero=True),
        levels={"before": result.before.probability},
        note="The tenth that is taught is not measured, if there are two or more.",
    )


def _draw(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    x: Axis,
    y: Axis,
    note: str,
    levels: dict[str, float] | None = None,
) -> Drawing:
    wide, narrow = (
        draw_curves(
            curves,
            name=name + suffix,
            description=description,
            x=x,
            y=y,
            size=size,
            levels=levels or {},
        )
        for size, suffix in ((_SIZE, ""), (_NARROW, "-narrow"))
    )
    return Drawing(wide, narrow, note=note)


def _format(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    if name == "bits_per_byte":
        return format_loss(value)
    return _percent(value) if name.endswith("match") else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _finite_all(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
