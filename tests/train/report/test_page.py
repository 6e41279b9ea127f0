"""The report: everything in it, nothing that runs or loads, whatever the run was."""

import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from lostjax.steps.readings import Readings
from lostjax.train.log.readings import LoggedReadings
from lostjax.train.report.figures import pick_curve
from lostjax.train.report.page import LedgerRow, Report, Sample, Timings, write_report
from lostjax.view.envelope import find_envelope
from lostjax.view.numbers import (
    format_bytes,
    format_count,
    format_flops,
    format_number,
    format_perplexity,
    format_seconds,
)

VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """Parses strictly: every element closed in order, every id once."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def make_report(n=40, **changes):
    steps = range(1, n + 1)
    values = {
        "title": "tiny",
        "command": "python -m lostjax.train",
        "configuration": {"steps": n, "model": {"rank": 64, "norm": {"eps": 1e-6}}},
        "metrics": [
            {
                "step": s,
                "loss": 8 / s + 3,
                "learning_rate": 1e-3 / s,
                "gradient_norm": 1 + 1 / s,
                "tokens_per_second": 2400.0,
            }
            for s in steps
        ],
        "evaluations": [
            {
                "step": s,
                "eval_loss": 3 + 5 / s,
                "eval_perplexity": math.exp(3 + 5 / s),
                "eval_bits_per_byte": 1.9 + 1 / s,
            }
            for s in (1, n)
        ],
        "parameters": 5_412_352,
        "tokens_seen": 163_840,
        "ledger": [
            LedgerRow("optimiser bytes", 43_298_816, 67_371_008),
            LedgerRow("parameters", 5_412_352, None, "count"),
        ],
        "baselines": {"xz -9": 2.32, "trigram": 1.84},
        "sample": Sample("The state", " of the Union"),
        "environment": {"jax": "0.10.2"},
        "timings": Timings(21.4, 9.8, 272.0),
    }
    return Report(**(values | changes))


def render(tmp_path, report):
    path = tmp_path / "report.html"
    write_report(path, report)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def assert_self_contained(text, page):
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "base", "image"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "data"} and not name.startswith("on")
            if name in {"href", "xlink:href"}:
                assert value.startswith("#") and value[1:] in page.ids
    for target in re.findall(r"url\(([^)]*)", text):
        assert target.startswith("#") and target[1:] in page.ids
    assert "@import" not in text and "http:" not in text and "https:" not in text
    assert len(page.ids) == len(set(page.ids))
    assert len(text.encode()) < 1_500_000


def test_the_page_holds_what_the_run_came_to(tmp_path):
    text, page = render(tmp_path, make_report())
    assert_self_contained(text, page)
    for words in (
        "1.925 held-out bits per byte",
        "5.41 M",
        "164 k",
        "4 min 32 s",
        "better than 1 of 2 baselines; next: trigram (1.840)",
        "optimiser bytes 43.3 MB 67.4 MB 0.643",
        "parameters 5.41 M \N{EN DASH}",
        "The state of the Union",
        "norm.eps 1e-06",
        "jax 0.10.2",
        "command to first step 21 s",
    ):
        dt_dd = words.split(" ", 1)
        assert words in page.text or f"{dt_dd[1]} {dt_dd[0]}" in page.text, words
    assert page.count("svg") == 7  # loss and bits for two widths each, three more
    assert all(a["aria-label"] for tag, a in page.tags if tag == "svg")


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


def labels(page):
    return [a["aria-label"] for tag, a in page.tags if tag == "svg"]


def test_a_measure_that_a_run_has_is_drawn(tmp_path):
    report = make_report()
    metrics = [x | {"trajectory": 0.5, "some_penalty": 2.0} for x in report.metrics]
    _, plain = render(tmp_path, report)
    text, page = render(tmp_path, make_report(metrics=metrics))
    assert_self_contained(text, page)
    (one, other) = (x for x in labels(page) if x not in labels(plain))
    assert one.startswith("Divergence from the past") and "0.5 at step 40" in one
    assert other.startswith("Some penalty") and "2 at step 1" in other
    assert "Stability" not in plain.text and "average" not in plain.text


def test_the_moving_average_stands_beside_the_model(tmp_path):
    evaluations = [
        x | {"eval_past_loss": 4.25, "eval_past_bits_per_byte": 2.25}
        for x in make_report().evaluations
    ]
    text, page = render(tmp_path, make_report(evaluations=evaluations))
    assert_self_contained(text, page)
    bars = page.text.split("less is better")[1]
    assert bars.index("trigram") < bars.index("this model, averaged") < bars.index("xz")
    assert "That of the moving average: 4.250 at step 1" in labels(page)[0]
    assert (
        "loss of the average its bits per byte 1 8.000 2,981.0 2.900 4.250 2.250"
        in (page.text)
    )


@pytest.mark.parametrize("n_layers", [1, 3, 40])
def test_readings_of_stability_are_drawn(tmp_path, n_layers):
    log = log_readings(n_layers=n_layers, worst=2e3)
    text, page = render(tmp_path, make_report(stability=log))
    assert_self_contained(text, page)
    assert page.count("svg") == 7 + 5
    assert "Alarm at 1 of 3 readings, first at step 10: too large." in page.text
    logits = next(x for x in labels(page) if x.startswith("Largest attention logit"))
    assert "3 at step 15; between 3 and 2,000" in logits
    assert text.count("color-mix") >= (38 if n_layers == 40 else 0)
    assert "#1617" not in text
    share = 1e-6 * math.sqrt(n_layers / (n_layers + 1))  # one of the layers has zeros
    assert f"layers/a {format_number(share)} 0 {format_number(share)}" in page.text


def test_a_thousand_readings_of_many_layers_stay_small(tmp_path):
    (line, *_) = log_readings(n_layers=32)
    log = [line._replace(step=10 * n) for n in range(1, 1001)]
    worst = line.readings._replace(attention_logits=np.r_[np.full(31, 2.0), 777.0])
    log[500] = log[500]._replace(readings=worst)
    text, page = render(tmp_path, make_report(stability=log))
    assert_self_contained(text, page)
    assert len(text) < 600_000 and "between 3 and 777" in " ".join(labels(page))


def test_the_model_stands_in_its_place_among_the_baselines(tmp_path):
    _, page = render(tmp_path, make_report())
    bars = page.text.split("less is better")[1]
    assert bars.index("trigram") < bars.index("this model") < bars.index("xz -9")


def test_words_beside_levels_stay_inside_the_drawing(tmp_path):
    name = "a method, given a text of training"
    text, _ = render(tmp_path, make_report(baselines={name: 2.0, "xz -9": 2.01}))
    for width in (472, 380):
        (drawing,) = re.findall(
            rf'viewBox="0 0 {width} \d+"[^>]*aria-label="Held-out.*?</svg>',
            text,
            re.DOTALL,
        )
        lines = re.findall(r"translate\(([\d.]+) [\d.]+\)\">([^<]+)</text>", drawing)
        assert " ".join(line for _, line in lines) == name
        for x, line in lines:
            assert float(x) + 6.8 * len(line) <= width


def test_curves_are_where_their_values_are(tmp_path):
    report = make_report(
        n=4,
        evaluations=(),
        metrics=[{"step": s, "loss": y} for s, y in ((1, 5.0), (2, 4.0), (4, 3.0))],
    )
    text, _ = render(tmp_path, report)
    (path,) = {
        d
        for d in re.findall(r'<path d="([^"]*)"[^>]*--series-1', text, re.DOTALL)
        if d.count("L") == 2
    } & set(re.findall(r'<path d="([^"]*)"', text.split('class="narrow"')[0]))
    points = np.array(re.findall(r"[-\d.]+", path), float).reshape(3, 2)
    across, down = np.diff(points, axis=0).T
    assert across[1] == pytest.approx(2 * across[0], rel=1e-4)  # step 3 is absent
    assert down[1] == pytest.approx(down[0], rel=1e-4) and down[0] > 0


ATTACK = "\"'></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x_1$"


def test_nothing_from_outside_becomes_markup(tmp_path):
    report = make_report(
        title=ATTACK,
        command=ATTACK,
        sample=Sample(ATTACK, ATTACK + "\0\x1b[31m"),
        configuration={ATTACK: {ATTACK: ATTACK}, "plain": [ATTACK]},
        environment={ATTACK: ATTACK},
        baselines={ATTACK: 2.0},
        ledger=[LedgerRow(ATTACK, 1, 2)],
    )
    text, page = render(tmp_path, report)
    assert_self_contained(text, page)
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "\0" not in text and "\x1b" not in text


def test_undecodable_text_is_shown(tmp_path):
    name = b"runs/\xff".decode("utf-8", "surrogateescape")
    _, page = render(tmp_path, make_report(command=name))
    assert "runs/\N{REPLACEMENT CHARACTER}" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 1, "evaluations": ()},
        {"metrics": [], "evaluations": ()},
        {"evaluations": (), "sample": None, "baselines": {}, "ledger": ()},
        {
            "evaluations": [
                {"step": 0, "eval_loss": math.nan, "eval_bits_per_byte": math.nan}
            ]
        },
        {"metrics": [{"step": 7, "loss": math.nan, "gradient_norm": math.inf}]},
        {"baselines": {}, "timings": Timings(), "environment": {}, "configuration": {}},
    ],
)
def test_any_run_has_a_report(tmp_path, changes):
    text, page = render(tmp_path, make_report(**changes))
    assert_self_contained(text, page)
    assert "tiny" in page.text


def test_steps_without_a_finite_loss_are_told(tmp_path):
    metrics = [
        {"step": s, "loss": math.nan if s in (5, 6) else math.inf if s == 9 else 3.0}
        for s in range(1, 11)
    ]
    _, page = render(tmp_path, make_report(metrics=metrics))
    assert "not finite at 3 of 10 steps, first at step 5" in page.text


def test_a_hundred_thousand_steps_stay_small_and_hide_no_spike(tmp_path):
    rng = np.random.default_rng(0)
    loss = 3 + rng.normal(0, 0.1, 100_000)
    loss[71_234] = 9.0
    metrics = [
        {"step": i + 1, "loss": float(v), "gradient_norm": float(v)}
        for i, v in enumerate(loss)
    ]
    text, page = render(tmp_path, make_report(metrics=metrics))
    assert_self_contained(text, page)
    assert len(text) < 400_000
    assert "the band spans their lowest and highest values" in page.text
    curve = pick_curve(metrics, "loss")
    shape = find_envelope(curve.steps, curve.values, bins=300)
    assert len(shape.steps) == 300
    assert shape.high.max() == 9.0 and shape.low.min() == loss.min()
    assert shape.steps[np.argmax(shape.high)] == pytest.approx(71_235, abs=334)
    starts = np.searchsorted(curve.steps, [1, 335])
    assert shape.mean[0] == pytest.approx(loss[slice(*starts)].mean(), abs=0.01)


def test_a_gap_in_the_steps_stays_a_gap():
    steps = np.r_[1:11, 500:511]
    shape = find_envelope(steps, np.ones(21), bins=100)
    (gap,) = np.flatnonzero(np.isnan(shape.mean))
    assert 10 < shape.steps[gap] < 500


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    write_report(tmp_path / "report.html", make_report(n=1))
    before = (tmp_path / "report.html").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path / "report.html", make_report(n=2))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_drawing_changes_nothing_global(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(tmp_path / "a.html", make_report())
    write_report(tmp_path / "b.html", make_report())
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_only_writing_a_report_loads_matplotlib(tmp_path):
    program = """
import sys
import lostjax.train.log.json_lines, lostjax.train.log.terminal
from lostjax.train.report.page import Report, write_report
assert not {"matplotlib", "tensorboardX", "wandb"} & set(sys.modules)
write_report(sys.argv[1], Report("t", "c", {}, [{"step": 1, "loss": 1.0}]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    path = str(tmp_path / "report.html")
    subprocess.run([sys.executable, "-c", program, path], check=True)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (format_count, 4096, "4,096"),
        (format_count, 14_912_345, "14.9 M"),
        (format_count, 999_960, "1.00 M"),
        (format_count, 7e9, "7.00 G"),
        (format_bytes, 512, "512 B"),
        (format_bytes, 59_649_380, "59.6 MB"),
        (format_bytes, 999_960, "1.00 MB"),
        (format_flops, 1.2e9, "1.20 GFLOP"),
        (format_seconds, 4.25, "4.2 s"),
        (format_seconds, 59.7, "1 min 0 s"),
        (format_seconds, 272, "4 min 32 s"),
        (format_seconds, 7500, "2 h 5 min"),
        (format_seconds, 3599.9, "1 h 0 min"),
        (format_seconds, 2e5, "2 d 8 h"),
        (format_number, 0.00099, "0.00099"),
        (format_number, 0.003, "0.003"),
        (format_number, 2e-5, "2.000e-05"),
        (format_number, 1234.567, "1,235"),
        (format_number, math.nan, "not a number"),
        (format_number, 0.0, "0"),
        (format_perplexity, 53.4982, "53.50"),
        (format_perplexity, 51_230, "51.2 k"),
        (format_perplexity, math.inf, "infinite"),
    ],
)
def test_numbers_read_well(form, value, text):
    assert form(value) == text
