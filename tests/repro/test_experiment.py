"""A paper is one file: adding it adds its table, verdicts, page, figure and cells."""

import dataclasses
import importlib
import json
import math
import os
import sys

import pytest

from lostjax.repro import papers
from lostjax.repro.__main__ import main
from lostjax.repro.experiment import Experiment, Scale, measure_claim
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_BY_MEAN, WITHOUT_RATE
from lostjax.repro.workers import map_on_cores

TOY = '''
"""A toy paper: the error of a rate is the distance to the best one."""

import dataclasses, math
from lostjax.repro.findings import Comparison
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_BY_MEAN

@dataclasses.dataclass(frozen=True)
class Toy:
    floor: float = 1.0

def train(toy, rate, seed):
    return {"error": toy.floor + math.log2(rate / 0.01) ** 2 + 0.01 * seed}

EXPERIMENT = Experiment(
    paper="A toy (arXiv:0000.00000)",
    scales={"smoke": Scale(Toy(), (0.005, 0.01, 0.02)), "small": Scale(Toy(), (99.0,))},
    methods=lambda scale: {"ours": scale.config, "theirs": Toy(floor=2.0),
                           "control": Toy(floor=1.0)},
    comparisons=(
        Comparison("ours", "theirs", "ours is better"),
        Comparison("ours", "control", "ours is better than itself"),
        Comparison("theirs", 1.5, "theirs has an error below 1.5"),
    ),
    measures=("error",),
    train=each_seed(train),
    tuning=TUNE_BY_MEAN,
    setting=lambda scale: f"Every run: a floor of {scale.config.floor:g}.",
)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Add the paper as a file, and nothing else; returns where results go."""
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(folder)])
    importlib.invalidate_caches()
    yield tmp_path / "results"
    sys.modules.pop("lostjax.repro.papers.toy", None)


def test_a_new_paper_is_one_file(toy, capsys):
    words = ["toy", "--scale=smoke", f"--results={toy}"]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert (toy / "toy-smoke.md").read_text() == page
    assert "| ours | 0.01 | 1.0200 ± 0.0158 |" in page
    prose = " ".join(page.split())
    assert "Every run: a floor of 1. The learning rate of each method is" in prose
    assert "| ours is better | error | -1.0000 ± 0.0231 | holds |" in page
    assert "| ours is better than itself | error | +0.0000 ± 0.0231 | within" in page
    assert "| theirs has an error below 1.5 | error | +0.5200 ± 0.0196 | does n" in page
    claim = json.loads((toy / "toy-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["ours", "theirs", "control"]
    assert claim["swept"] == "error" and claim["findings"][2]["second"] == 1.5
    cells = (toy / "cells" / "toy-smoke.jsonl").read_text().splitlines()
    assert len(cells) == claim["cost"]["runs"] == 3 * 5 * 5
    assert json.loads(cells[0])["configuration"] == {
        "floor": 1.0,
        "learning_rate": 0.005,
        "seed": 0,
    }
    figure = (toy / "toy-smoke.svg").read_text()
    assert ">theirs<" in figure and "learning rates, each row" in figure
    assert main(["--scale=smoke", f"--results={toy}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (words,) = [line.split() for line in lines if line.startswith("toy ")]
    assert words == ["toy", *"31110", "A", "toy", "(arXiv:0000.00000)"]


def test_a_stopped_experiment_resumes_at_its_cells(toy, monkeypatch, capsys):
    words = ["toy", "--scale=smoke", "--seeds=2", f"--results={toy}"]
    assert main(words) == 0
    page = capsys.readouterr().out
    path = toy / "cells" / "toy-smoke.jsonl"
    kept = path.read_bytes()
    path.write_bytes(b"".join(kept.splitlines(keepends=True)[:-3]) + b'{"name": "t')
    assert main(words) == 0
    again = [json.loads(line)["name"] for line in path.read_text().splitlines()]
    assert again == [json.loads(line)["name"] for line in kept.splitlines()]
    assert capsys.readouterr().out == page
    assert main([*words[:2], "--seeds=3", words[3]]) == 0
    assert len(path.read_text().splitlines()) == len(again) * 3 / 2


def test_all_claims_are_on_one_page(toy, capsys):
    """The small scale's, which are committed; a smoke run leaves it as it is."""
    assert main(["toy", "--scale=smoke", f"--results={toy}"]) == 0
    assert not (toy / "README.md").exists()
    text = (toy / "toy-smoke.json").read_text()
    (toy / "toy-small.json").write_text(text)
    assert main(["toy", "--scale=smoke", f"--results={toy}"]) == 0
    overview = (toy / "README.md").read_text()
    assert (
        "| [A toy (arXiv:0000.00000)](toy-small.md) | 3 | 1 | 1 | 1 | 0 |" in overview
    )
    (toy / "toy-small.json").write_text("{}")
    capsys.readouterr()
    assert main([f"--results={toy}"]) == 2
    assert "toy-small.json: not a claim" in capsys.readouterr().err


def test_a_best_rate_at_the_edge_is_one_line(toy, capsys):
    assert main(["toy", f"--results={toy}"]) == 1
    said = capsys.readouterr().err
    assert "ours: the best learning rate stays at the edge of its grid" in said
    assert "Traceback" not in said


def test_a_full_disk_is_one_line(toy, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    assert main(["toy", "--scale=smoke", f"--results={toy}"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and "toy-smoke.jsonl" in said
    assert said.count("\n") == 1


@dataclasses.dataclass(frozen=True)
class Theory:
    slope: float = 2.0


def simulate(theory, rate, seed):
    assert rate is None
    return {"error": abs(theory.slope - 2) + 0.01 * seed, "units": 7.0}


def make_theory(**changes):
    experiment = Experiment(
        paper="A theory",
        scales={"smoke": Scale(Theory())},
        methods=lambda scale: {"true": scale.config, "false": Theory(slope=3.0)},
        comparisons=(Comparison("true", "false", "the closed form is right"),),
        measures=("error",),
        facts=("units",),
        train=each_seed(simulate),
        tuning=WITHOUT_RATE,
        setting=lambda scale: "Every run: a simulation.",
    )
    return dataclasses.replace(experiment, **changes)


def measure(experiment, tmp_path, **options):
    options = {"scale": "smoke", "seeds": 3, "cells": tmp_path / "x.jsonl"} | options
    return measure_claim("theory", experiment, **options)


def test_what_has_no_learning_rate_has_no_column_for_it(tmp_path):
    from lostjax.repro.tables import draw_claim, write_page

    claim = measure(make_theory(), tmp_path)
    assert [row.learning_rate for row in claim.rows] == [None, None]
    assert claim.findings[0].verdict == "holds" and claim.cost.runs == 6
    page, figure = write_page(claim), draw_claim(claim)
    assert "learning rate" not in page + figure
    assert "| true | 7 | 0.0100 ± 0.0100 |" in page and "tokens" not in page


def test_a_changed_field_runs_its_method_again_and_no_other(tmp_path, capsys):
    measure(make_theory(), tmp_path)
    changed = make_theory(
        methods=lambda scale: {"true": Theory(), "false": Theory(slope=4.0)}
    )
    claim = measure(changed, tmp_path)
    assert claim.findings[0].difference == pytest.approx(-2)
    said = capsys.readouterr().err
    assert said.count("trained again: slope: 3.0 there, 4.0 now") == 3
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 6 + 3


def test_what_diverged_is_not_measured(tmp_path):
    def diverge(theory, rate, seed):
        return {"error": math.inf if seed == 1 else 1.0, "units": 7}

    experiment = make_theory(train=each_seed(diverge))
    first = measure(experiment, tmp_path)
    assert first.findings[0].verdict == "not measured"
    assert str(measure(experiment, tmp_path)) == str(first)


def test_a_train_function_that_forgets_a_seed_is_an_error(tmp_path):
    def train(config, *, learning_rate, seeds):
        return {"error": [1.0], "units": [7.0]}

    with pytest.raises(ValueError, match="error: 1 values for 3 seeds"):
        measure(make_theory(train=train), tmp_path)


def test_methods_need_names_that_differ(tmp_path):
    experiment = make_theory(methods=lambda scale: {"a b": Theory(), "A-b": Theory()})
    with pytest.raises(ValueError, match="differ in punctuation alone"):
        measure(experiment, tmp_path)


def test_rates_without_a_tuning_are_an_error(tmp_path):
    experiment = make_theory(scales={"smoke": Scale(Theory(), rates=(1.0,))})
    with pytest.raises(ValueError, match="a tuning without any"):
        measure(experiment, tmp_path)
    experiment = dataclasses.replace(experiment, tuning=TUNE_BY_MEAN)
    with pytest.raises(AssertionError):
        measure(experiment, tmp_path)


def test_workers_keep_the_order_and_take_a_core_each():
    found = map_on_cores(where, [3, 1, 2], workers=2)
    assert [item for item, _, _ in found] == [3, 1, 2]
    assert all(process != os.getpid() for _, process, _ in found)
    if hasattr(os, "sched_getaffinity"):
        assert {cores for _, _, cores in found} == {1}
    assert [process for _, process, _ in map_on_cores(where, [1], workers=1)] == [
        os.getpid()
    ]


def where(item):
    cores = getattr(os, "sched_getaffinity", lambda _: {0})(0)
    return item, os.getpid(), len(cores)
