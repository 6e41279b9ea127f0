"""SalUn's experiment: what is forgotten, how it is attacked, and what is compared."""

import json

import jax
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import salun as paper
from lostjax.repro.papers.salun.forgetting import Unlearning, attack, train_seeds
from lostjax.repro.papers.salun.worlds import World, build_cases, draw_rows
from lostjax.repro.problems.images import DIGITS, load_rows
from lostjax.repro.runs import run_other
from lostjax.sweep.cell_file import CellFile

TINY = World(DIGITS, rows=200, test_rows=100, hidden=8, epochs=4)


def test_a_tenth_is_forgotten_at_random_or_of_one_class():
    rows, places = draw_rows(TINY, 3)
    labels = load_rows(DIGITS).train.labels[rows]
    assert np.bincount(labels).tolist() == [20] * 10 and len(set(rows)) == 200
    assert places.shape == (4, 20)
    assert not set(places[0]) & set(places[1])
    assert len(set(labels[places[0]])) > 3
    (one,), (other,) = (set(labels[each]) for each in places[2:])
    assert one != other


def test_the_attack_takes_the_threshold_that_tells_members_best():
    members = np.array([0.9, 0.8, 0.7, 0.3])
    others = np.array([0.6, 0.5, 0.4, 0.1, 0.1])
    # Above .7: 3 of 4 members and none of the others.
    assert attack(members, others, np.array([0.95, 0.69, 0.1, 0.0])) == 0.75
    # Nothing can be told: no threshold, or one that takes all for members.
    assert attack(others, others, others) in (0.0, 1.0)


def test_classifiers_that_never_saw_the_forgotten_err_on_a_class():
    cases = build_cases(TINY, (0,))
    assert cases.forget_F.shape == (4, 20) and cases.retain_R.shape == (4, 180)
    gaps = train_seeds(Unlearning(TINY, way=paper.ANEW), learning_rate=None, seeds=[0])
    (error,) = gaps["one class: forget error, %"]
    assert error == 100.0
    same = train_seeds(
        Unlearning(TINY, way=paper.NOTHING), learning_rate=None, seeds=[0]
    )
    assert same["one class: gap, %"][0] > gaps["one class: gap, %"][0]


def test_masked_weights_stay_and_labels_are_forgotten(tmp_path):
    config = Unlearning(TINY, mask=paper.SALIENT, fraction=0.3, epochs=2)
    found = train_seeds(config, learning_rate=0.1, seeds=[0])
    start = train_seeds(
        Unlearning(TINY, way=paper.NOTHING), learning_rate=None, seeds=[0]
    )
    name = "one class: forget error, %"
    assert found[name][0] > start[name][0]
    run = run_other(
        "SalUn .3", config, cells=CellFile(tmp_path / "cells"), train=train_seeds
    )
    (cell,) = run(0.1, [0])
    assert cell.measures[name] == pytest.approx(found[name][0])


def test_every_method_has_a_place_in_what_is_compared():
    experiment = paper.EXPERIMENT
    methods = experiment.methods(experiment.scales["small"])
    compared = {
        name for each in experiment.comparisons for name in (each.first, each.second)
    }
    assert compared == set(methods)


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path):
    words = ["salun", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "salun-smoke.json").read_text())
    assert len(claim["rows"]) >= 4
    assert jax.tree.all(
        jax.tree.map(np.isfinite, [row["mean"] for row in claim["rows"]])
    )
