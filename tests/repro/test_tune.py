"""Sweeps that widen, rows of the best rate, and what a table took."""

import math
import os

import numpy as np
import pytest

from lostjax.repro.claims import BITS
from lostjax.repro.papers.lost import SCALES, build_methods
from lostjax.repro.tune import SweepError, measure_methods
from lostjax.repro.workers import map_on_cores

CONFIG = SCALES["smoke"].config
TOKENS = 400 * 8 * 128


def measure(directory, *, seeds=3, **methods):
    return measure_methods(
        methods or {"x": CONFIG},
        rates=(1e-3, 2e-3, 4e-3),
        seeds=seeds,
        directory=directory,
        workers=1,
    )


def test_a_best_rate_inside_the_grid_needs_no_more(fake_training, tmp_path):
    trained = fake_training(best=2e-3)
    (row,), cost = measure(tmp_path)
    assert row.learning_rate == 2e-3
    assert list(row.swept) == [1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3]
    assert row.measures == {BITS: (1.0, 1.0005, 1.001)}
    assert row.facts == {"parameters": 100}
    assert row.mean(BITS) == pytest.approx(1.0005)
    assert row.spread(BITS) == pytest.approx(0.0005)
    assert len(trained) == cost.runs == 7 and cost.tokens == 7 * TOKENS
    assert len(cost.machines) == 1 and "jax" in cost.machines[0]


@pytest.mark.parametrize("best, found", [(4e-2, 4.5e-2), (1.2e-4, 1.25e-4)])
def test_a_sweep_widens_until_the_best_is_inside(fake_training, tmp_path, best, found):
    fake_training(best=best)
    (row,), _ = measure(tmp_path)
    assert row.learning_rate == pytest.approx(found)
    assert min(row.swept) < row.learning_rate < max(row.swept)
    rates = np.array(list(row.swept))
    steps = rates[1:] / rates[:-1]
    assert np.all((abs(steps - 2) < 1e-9) | (abs(steps - 2**0.5) < 0.03))
    assert np.sum(steps < 1.5) == 4, "refined on both sides of the best"


def test_the_best_may_lie_between(fake_training, tmp_path):
    fake_training(best=2.8e-3)
    (row,), _ = measure(tmp_path)
    assert row.learning_rate == 2.8e-3
    assert list(row.swept) == [1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3]


@pytest.mark.parametrize("best, diverges", [(1e-2, 8e-3), (2.5e-4, 1e-3)])
def test_a_diverged_rate_is_no_best_one(fake_training, tmp_path, best, diverges):
    fake_training(best=best, diverges=diverges)
    (row,), _ = measure(tmp_path)
    assert diverges / 2 <= row.learning_rate < diverges or row.learning_rate == best
    assert math.isnan(row.swept[diverges])


def test_a_best_rate_that_stays_at_the_edge_voids_the_row(fake_training, tmp_path):
    fake_training(best=1e3)
    with pytest.raises(SweepError, match="x: the best learning rate stays at the edge"):
        measure(tmp_path)


def test_a_table_goes_on_where_it_stopped(fake_training, tmp_path):
    trained = fake_training(best=2e-3)
    methods = build_methods(CONFIG)
    pair = {name: methods[name] for name in ("LOST", "CoLA")}
    first = measure(tmp_path, LOST=pair["LOST"])
    assert len(trained) == 7
    both = measure(tmp_path, **pair)
    assert both.rows[0] == first.rows[0] and len(trained) == 14
    assert measure(tmp_path, **pair) == both and len(trained) == 14
    assert len(list(tmp_path.iterdir())) == both.cost.runs == 14


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
