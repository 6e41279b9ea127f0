"""Tunings: grids that widen, rows of the best rate, and what they ran."""

import math

import numpy as np
import pytest

from lostjax.repro.tune import (
    TUNE_BY_MEAN,
    TUNE_ON_FIRST_SEED,
    SweepError,
    tune_apart,
    use_whole_grid,
)
from lostjax.sweep.cell_file import Cell, Made

MADE = Made("2026-01-01", "a machine", "1", 1.0)


def make_run(*, best=2e-3, diverges=math.inf, best_error=4e-3):
    """Fake runs, bowls over the logarithm of the rate; returns what was run, too."""
    ran = []

    def run(rate, seeds):
        ran.extend((rate, seed) for seed in seeds)
        return [make_cell(rate, seed) for seed in seeds]

    def make_cell(rate, seed):
        loss = 2.0 + math.log2(rate / best) ** 2 + 0.001 * seed
        error = 5.0 + math.log2(rate / best_error) ** 2 + seed
        loss = math.nan if rate >= diverges else loss
        return Cell("x", "x", {}, {"loss": loss, "error": error}, MADE)

    return run, ran


def find_row(tuning, run, *, seeds=3, measures=("loss",)):
    rates = (1e-3, 2e-3, 4e-3)
    return tuning.find_row(run, method="x", rates=rates, seeds=seeds, measures=measures)


def test_a_best_rate_inside_the_grid_needs_no_more():
    run, ran = make_run(best=2e-3)
    row = find_row(TUNE_ON_FIRST_SEED, run)
    assert row.learning_rate == 2e-3
    assert list(row.swept) == [1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3]
    assert row.measures == {"loss": (2.0, 2.001, 2.002)}
    assert row.mean("loss") == pytest.approx(2.001)
    assert row.spread("loss") == pytest.approx(0.001)
    assert len(set(ran)) == 7, "the other seeds at the best rate alone"


@pytest.mark.parametrize("tuning", [TUNE_ON_FIRST_SEED, TUNE_BY_MEAN])
@pytest.mark.parametrize("best, found", [(4e-2, 4.5e-2), (1.2e-4, 1.25e-4)])
def test_a_grid_widens_until_the_best_is_inside(tuning, best, found):
    run, _ = make_run(best=best)
    row = find_row(tuning, run)
    assert row.learning_rate == pytest.approx(found)
    assert min(row.swept) < row.learning_rate < max(row.swept)
    rates = np.array(list(row.swept))
    steps = rates[1:] / rates[:-1]
    assert np.all((abs(steps - 2) < 1e-9) | (abs(steps - 2**0.5) < 0.03))
    assert np.sum(steps < 1.5) == 4, "refined on both sides of the best"


def test_the_best_may_lie_between():
    run, _ = make_run(best=2.8e-3)
    row = find_row(TUNE_ON_FIRST_SEED, run)
    assert row.learning_rate == 2.8e-3
    assert list(row.swept) == [1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3]


@pytest.mark.parametrize("best, diverges", [(1e-2, 8e-3), (2.5e-4, 1e-3)])
def test_a_diverged_rate_is_no_best_one(best, diverges):
    run, _ = make_run(best=best, diverges=diverges)
    row = find_row(TUNE_ON_FIRST_SEED, run)
    assert diverges / 2 <= row.learning_rate < diverges or row.learning_rate == best
    assert math.isnan(row.swept[diverges])


def test_a_best_rate_that_stays_at_the_edge_voids_the_row():
    run, _ = make_run(best=1e3)
    with pytest.raises(SweepError, match="x: the best learning rate stays at the edge"):
        find_row(TUNE_ON_FIRST_SEED, run)


def test_the_mean_is_over_every_seed_at_every_rate():
    run, ran = make_run(best=2e-3)
    row = find_row(TUNE_BY_MEAN, run)
    assert len(set(ran)) == 15
    assert row.swept[2e-3] == pytest.approx(2.001)
    assert row.measures == {"loss": (2.0, 2.001, 2.002)}


def test_a_measure_may_be_tuned_for_itself():
    run, _ = make_run(best=2e-3, best_error=8e-3)
    row = find_row(tune_apart("error"), run, measures=("loss", "error"))
    assert row.learning_rate == 2e-3 and max(row.swept) == 4e-3
    assert row.measures["loss"] == (2.0, 2.001, 2.002)
    assert row.measures["error"] == (5.0, 6.0, 7.0)
    together = find_row(TUNE_BY_MEAN, run, measures=("loss", "error"))
    assert together.measures["error"] == (9.0, 10.0, 11.0)
    assert "error: at the rate" in tune_apart("error").sentence
    assert "at the rate" not in TUNE_BY_MEAN.sentence


def test_a_whole_grid_is_measured_seed_by_seed():
    def summarise(grids):
        firsts = [grid[1e-3].measures["loss"] for grid in grids]
        assert [len(grid) for grid in grids] == [3, 3]
        return {"first": tuple(firsts)}

    tuning = use_whole_grid(summarise, loss=lambda cell: cell.measures["loss"])
    run, ran = make_run(best=4e-3)
    row = find_row(tuning, run, seeds=2, measures=("first",))
    assert len(ran) == 6 and row.learning_rate == 4e-3
    assert row.measures["first"] == (6.0, 6.001)
    assert row.swept[4e-3] == pytest.approx(2.0005)
