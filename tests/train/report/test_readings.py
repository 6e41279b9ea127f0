"""The report's section on stability."""

import math

import numpy as np
import pytest

from lostjax.steps.readings import Readings
from lostjax.train.log.readings import LoggedReadings
from lostjax.view.numbers import format_number


def log_readings(*, n_layers, worst=1.0):
    """Three readings; the second has `worst` for a logit of its last layer."""
    lines = []
    for step in (5, 10, 15):
        logits = np.full(n_layers, 2.0)
        logits[-1] = worst if step == 10 else 3.0
        rms = {"head": np.array(1e-2), "layers/a": np.r_[0.0, np.full(n_layers, 1e-6)]}
        readings = Readings(logits, np.array(5.0), rms, rms, rms)
        alarms = {"logits": "too large"} if worst > 1e3 and step == 10 else {}
        lines.append(LoggedReadings(step, readings, alarms))
    return lines


@pytest.mark.parametrize("n_layers", [1, 3, 40])
def test_readings_of_stability_are_drawn(make_report, render, n_layers):
    log = log_readings(n_layers=n_layers, worst=2e3)
    text, page = render(make_report(stability=log))
    assert page.count("svg") == 7 + 5
    assert "Alarm at 1 of 3 readings, first at step 10: too large." in page.text
    logits = next(x for x in page.labels if x.startswith("Largest attention logit"))
    assert "3 at step 15; between 3 and 2,000" in logits
    assert text.count("color-mix") >= (38 if n_layers == 40 else 0)
    assert "#1617" not in text
    share = 1e-6 * math.sqrt(n_layers / (n_layers + 1))  # one of the layers has zeros
    assert f"layers/a {format_number(share)} 0 {format_number(share)}" in page.text


def test_a_run_without_readings_has_no_such_section(make_report, render):
    assert "Stability" not in render(make_report())[1].text


def test_a_thousand_readings_of_many_layers_stay_small(make_report, render):
    (line, *_) = log_readings(n_layers=32)
    log = [line._replace(step=10 * n) for n in range(1, 1001)]
    worst = line.readings._replace(attention_logits=np.r_[np.full(31, 2.0), 777.0])
    log[500] = log[500]._replace(readings=worst)
    text, page = render(make_report(stability=log))
    assert len(text) < 600_000 and "between 3 and 777" in " ".join(page.labels)
