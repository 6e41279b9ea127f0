"""The curves of a report: every measure that a run has, however long the run."""

import math

import numpy as np

from lostjax.train.report.figures import describe, pick_curve
from lostjax.view.numbers import format_loss


def test_a_curve_has_the_lines_that_hold_it_in_the_order_of_steps():
    lines = [{"step": 3, "loss": 1.0}, {"step": 2}, {"step": 1, "loss": 2.0}]
    curve = pick_curve(lines, "loss")
    assert curve.x.tolist() == [1, 3] and curve.y.tolist() == [2.0, 1.0]


def test_a_measure_that_a_run_has_is_drawn(make_report, render):
    report = make_report()
    metrics = [x | {"trajectory": 0.5, "some_penalty": 2.0} for x in report.metrics]
    _, plain = render(report)
    _, page = render(make_report(metrics=metrics))
    (one, other) = (x for x in page.labels if x not in plain.labels)
    assert one.startswith("Divergence from the past") and "0.5 at step 40" in one
    assert other.startswith("Some penalty") and "2 at step 1" in other
    assert "average" not in plain.text


def test_steps_without_a_finite_loss_are_told(make_report, render):
    metrics = [
        {"step": s, "loss": math.nan if s in (5, 6) else math.inf if s == 9 else 3.0}
        for s in range(1, 11)
    ]
    _, page = render(make_report(metrics=metrics))
    assert "not finite at 3 of 10 steps, first at step 5" in page.text


def test_a_hundred_thousand_steps_stay_small(make_report, render):
    loss = 3 + np.random.default_rng(0).normal(0, 0.1, 100_000)
    metrics = [
        {"step": i + 1, "loss": float(v), "gradient_norm": float(v)}
        for i, v in enumerate(loss)
    ]
    text, page = render(make_report(metrics=metrics))
    assert len(text) < 400_000
    assert "the band spans their lowest and highest values" in page.text


def test_a_curve_is_described_by_its_ends_and_its_range():
    lines = [{"step": s, "loss": y} for s, y in enumerate((math.nan, 3, 9, 2))]
    assert describe(pick_curve(lines, "loss"), "Loss", format_loss) == (
        "Loss: 3.000 at step 1, 2.000 at step 3; between 2.000 and 9.000."
    )
    nothing = pick_curve(lines[:1], "loss")
    assert describe(nothing, "Loss", format_loss) == "Loss: no finite value."
