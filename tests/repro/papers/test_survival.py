"""The survival paper: splits, losses and what is read of their outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses
from lostjax.repro.__main__ import main
from lostjax.repro.papers.survival.methods import METHODS, Prediction
from lostjax.repro.papers.survival.splits import BINS, SHORT_BINS, made_set, split_set
from lostjax.repro.papers.survival.training import (
    CLICKED,
    DISCORD,
    SHORT,
    judge_prediction,
)


@pytest.fixture(scope="module")
def problem():
    found = split_set(made_set(), seed=0, most_rows=300, batches=(2, 8))
    return jax.tree.map(jnp.asarray, found)


def test_a_split_shares_no_subject_and_has_all_rows(problem):
    choose, judge = np.asarray(problem.held.part.times_B)
    train = problem.train.times_B
    assert (len(train), len(choose), len(judge)) == (180, 60, 60)
    assert len({*train.tolist(), *choose.tolist(), *judge.tolist()}) == 300
    assert problem.batches_SB.shape == (2, 8)
    # Numbers are standardised where they are learnt, and nowhere else.
    np.testing.assert_allclose(problem.train.x_BM[:, :3].mean(0), 0, atol=1e-2)
    assert np.abs(problem.held.part.x_BM[1][:, :3].mean(0)).max() > 1e-2


def test_horizons_are_tenths_of_the_events_times(problem):
    died = problem.train.times_B[problem.train.events_B]
    share = (died[:, None] <= problem.horizons_H).mean(axis=0)
    np.testing.assert_allclose(share, np.arange(1, 10) / 10, atol=1 / len(died))
    # The short bins end at the median, past which nobody's event is seen.
    middle = problem.horizons_H[4]
    seen = problem.train.events_B & (problem.train.times_B <= middle)
    np.testing.assert_array_equal(problem.train.short.events, seen)


def test_the_control_learns_from_others_covariates_and_is_judged_by_its_own(problem):
    other = split_set(made_set(), seed=0, most_rows=300, batches=(2, 8), shuffled=True)
    np.testing.assert_array_equal(other.train.times_B, problem.train.times_B)
    assert (other.train.x_BM != problem.train.x_BM).any(axis=1).mean() > 0.9
    one, two = (np.sort(each.train.x_BM[:, 0]) for each in (other, problem))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(other.held.part.x_BM, problem.held.part.x_BM)


def test_short_bins_meet_the_long_ones_at_the_tenths(problem):
    """Hazards of one curve, S = .9 at the first tenth, ..., read off both heads."""
    curve = 1 - np.arange(2 * BINS + 1) / (2 * BINS + 1)
    steps = {"short bins": curve[: SHORT_BINS + 1], "hazard": curve[::2]}
    found = {}
    for name, points in steps.items():
        hazards = 1 - points[1:] / points[:-1]
        logits = jnp.log(hazards / (1 - hazards))[None]
        found[name] = jax.jit(METHODS[name].predict)(logits, logits, problem)
        found[name] = found[name].survival_BH[0]
    np.testing.assert_allclose(found["hazard"], curve[2:-1:2], rtol=1e-5)
    np.testing.assert_allclose(found["short bins"][:5], curve[2:12:2], rtol=1e-5)
    np.testing.assert_allclose(found["short bins"][5:], curve[10], rtol=1e-5)


def test_regression_of_events_alone_reads_no_censored_time(problem):
    part = problem.train
    changed = part._replace(log_times_B=jnp.where(part.events_B, part.log_times_B, 9.0))
    outputs = jnp.zeros((len(part.times_B), 1))
    alone, both = (
        jax.jit(METHODS[name].loss) for name in ("events alone", "regression")
    )
    assert alone(outputs, part) == alone(outputs, changed)
    assert both(outputs, changed) > both(outputs, part) + 1


def test_pycox_rounds_censored_times_down(problem):
    part = problem.train
    logits = jnp.linspace(-2, 0, BINS) * jnp.ones((len(part.times_B), 1))
    bins = np.where(part.events_B, part.long.bins, np.asarray(part.long.bins) - 1)
    kept = bins >= 0
    rows = losses.hazard_loss(
        logits[kept], jnp.asarray(bins[kept]), events=part.long.events[kept]
    )
    found = jax.jit(METHODS["pycox's"].loss)(logits, part)
    np.testing.assert_allclose(found, rows.sum() / len(kept), rtol=1e-5)


def test_each_measure_reads_its_own_subjects(problem):
    held = jax.tree.map(lambda leaf: leaf[0], problem.held)
    part = held.part
    survival = jnp.full((len(part.times_B), 9), 0.5)
    right = -part.times_B
    horizons = jnp.asarray(problem.horizons_H)

    program = jax.jit(judge_prediction)

    def judge(risks, short):
        return program(Prediction(risks, short, survival), held, horizons)

    found = judge(right, right)
    assert max(float(found[name]) for name in (DISCORD, SHORT, CLICKED)) < 1e-4
    # Wrong for the most clicked alone, among themselves.
    wrong = jnp.where(part.clicked_B, part.times_B - 100, right)
    found = judge(wrong, right)
    assert found[CLICKED] > 99.9 and 0 < found[DISCORD] < 60 and found[SHORT] < 1e-4
    # Wrong beyond the median alone.
    late = part.times_B > horizons[4]
    found = judge(right, jnp.where(late, part.times_B - 100, right))
    assert found[SHORT] < 1e-4


@pytest.mark.slow
def test_the_smoke_scale_learns_more_than_the_control(tmp_path, capsys):
    words = ["survival", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "survival-smoke.json").read_text())
    mean = {row["method"]: row["mean"]["1 - C, mean"] for row in claim["rows"]}
    assert mean["Cox, linear"] < mean["hazard, shuffled"] < 65
    assert mean["hazard"] < 30
