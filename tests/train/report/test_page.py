"""The report: everything in it, nothing that runs or loads, whatever the run was."""

import dataclasses
import math
import subprocess
import sys

import pytest

from lostjax.train.config.fields import flat_fields
from lostjax.train.config.presets import get_preset
from lostjax.train.report.contents import LedgerRow, Report, Sample, Timings
from lostjax.train.report.page import write_report

FACTS = (
    "Training report tiny python -m lostjax.train",
    "held-out bits per byte 1.925 held-out perplexity 22.76 held-out loss, nats 3.125",
    "parameters 5.41 M tokens seen 164 k time 4 min 32 s",
    "this model is better than 1 of 2 baselines; next: trigram (1.840).",
    "method bits per byte trigram 1.840 this model 1.925 xz -9 2.320",
    "During training",
    "quantity this model dense ratio optimiser bytes 43.3 MB 67.4 MB 0.643",
    "parameters 5.41 M \N{EN DASH} \N{EN DASH}",
    "Sample The state of the Union The prompt is in bold; the model wrote the rest.",
    "run name value steps 40 model name value rank 64 norm.eps 1e-06",
    "machine and versions name value jax 0.10.2",
    "command to first step 21 s of it compiling 9.8 s total 4 min 32 s",
    "step loss perplexity bits per byte 1 8.000 2,981.0 2.900 40 3.125 22.76 1.925",
)


def test_the_page_holds_the_facts_of_the_run_in_order(make_report, render):
    _, page = render(make_report())
    places = [page.text.find(words) for words in FACTS]
    assert -1 not in places, FACTS[places.index(-1)]
    assert places == sorted(places)
    assert page.count("svg") == 7  # loss and bits for two widths each, three more
    assert page.labels[0] == (
        "Loss by step. Training loss: 11.000 at step 1, 3.200 at step 40; between "
        "3.200 and 11.000. Held-out loss: 8.000 at step 1, 3.125 at step 40; between "
        "3.125 and 8.000."
    )


def test_every_field_of_a_configuration_is_shown(make_report, render):
    configuration = dataclasses.asdict(get_preset("smoke"))
    _, page = render(make_report(configuration=configuration))
    # A table has the name of its part; its rows have the rest, as in frugal.density.
    fields = flat_fields(get_preset("smoke"))
    names = {name.partition(".")[2] or name for name in fields}
    assert (
        "frugal.density" in names
        and len(names) > 60
        and names <= set(page.text.split())
    )


def test_the_moving_average_stands_beside_the_model(make_report, render):
    evaluations = [
        x | {"eval_past_loss": 4.25, "eval_past_bits_per_byte": 2.25}
        for x in make_report().evaluations
    ]
    _, page = render(make_report(evaluations=evaluations))
    assert "trigram 1.840 this model 1.925 this model, averaged 2.250 xz" in page.text
    assert "That of the moving average: 4.250 at step 1" in page.labels[0]
    assert (
        "loss of the average its bits per byte 1 8.000 2,981.0 2.900 4.250 2.250"
        in page.text
    )


def test_bars_are_as_long_as_their_values(make_report, render):
    _, page = render(make_report(baselines={"xz -9": 3.85, "none": math.nan}))
    styles = [a["style"] for tag, a in page.tags if a.get("class") == "bar"]
    assert styles == ["width:50.00%", "width:100.00%"]
    strong = [tag for tag, a in page.tags if a.get("class") == "strong"]
    assert strong == ["tr"] and "none" not in page.text.split("less is better")[1][:80]


def test_the_last_hundred_evaluations_are_listed(make_report, render):
    evaluations = [{"step": 7 * s, "eval_loss": 2.0} for s in range(1, 151)]
    _, page = render(make_report(evaluations=evaluations))
    assert "The last 100 of 150 evaluations step loss 357 2.000" in page.text


ATTACK = "\"'></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x_1$"


def test_nothing_from_outside_becomes_markup(make_report, render):
    report = make_report(
        title=ATTACK,
        command=ATTACK,
        sample=Sample(ATTACK, ATTACK + "\0\x1b[31m"),
        configuration={ATTACK: {ATTACK: ATTACK}, "plain": [ATTACK]},
        environment={ATTACK: ATTACK},
        baselines={ATTACK: 2.0},
        ledger=[LedgerRow(ATTACK, 1, 2)],
        metrics=[{"step": 1, "loss": 1.0, ATTACK: 2.0}],
    )
    text, page = render(report)
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "\0" not in text and "\x1b" not in text


def test_undecodable_text_is_shown(make_report, render):
    name = b"runs/\xff".decode("utf-8", "surrogateescape")
    _, page = render(make_report(command=name, baselines={name: 2.0}))
    assert page.text.count("runs/\N{REPLACEMENT CHARACTER}") >= 3


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
def test_any_run_has_a_report(make_report, render, changes):
    _, page = render(make_report(**changes))
    assert "tiny" in page.text


def test_a_section_without_contents_is_left_out(make_report, render):
    _, page = render(
        Report("tiny", "command", configuration={}, metrics=[{"step": 1, "loss": 1.0}])
    )
    assert page.count("section") == page.count("h2") == 1
    assert page.text.count("training loss, last step") == 1


def test_a_failed_write_leaves_the_old_report(make_report, tmp_path, monkeypatch):
    write_report(tmp_path / "report.html", make_report(n=1))
    before = (tmp_path / "report.html").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path / "report.html", make_report(n=2))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_same_report_is_the_same_page(make_report, render):
    assert render(make_report())[0] == render(make_report())[0]


def test_only_writing_a_report_loads_matplotlib(tmp_path):
    program = """
import sys
import lostjax.train.log.json_lines, lostjax.train.log.terminal
from lostjax.train.report.contents import Report
from lostjax.train.report.page import write_report
assert not {"matplotlib", "tensorboardX", "wandb"} & set(sys.modules)
write_report(sys.argv[1], Report("t", "c", {}, [{"step": 1, "loss": 1.0}]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    path = str(tmp_path / "report.html")
    subprocess.run([sys.executable, "-c", program, path], check=True)
