"""Scores of censored times against scikit-survival, and their edges."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from lostjax import metrics

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "survival.json").read_text())
TIMES, RISKS, SURVIVAL, HORIZONS = (
    np.array(GOLDEN[name], np.float32)
    for name in ("times", "risks", "survival", "horizons")
)
EVENTS = np.array(GOLDEN["events"])
N_TRAIN = GOLDEN["n_train"]
# In one program each: op by op, each operation would compile.
fit = jax.jit(lambda t, e: metrics.fit_censoring(t, events_B=e))
harrell = jax.jit(lambda r, t, e: metrics.concordance_index(r, t, events_B=e))
brier, integrated = (
    jax.jit(
        lambda s, t, e, h, c, score=score: score(
            s, t, events_B=e, horizons_H=h, censoring=c
        )
    )
    for score in (metrics.censored_brier_score, metrics.integrated_brier_score)
)


@jax.jit
def uno(risks, times, events, horizon=np.inf, censoring=None):
    return metrics.uno_concordance_index(
        risks, times, events_B=events, horizon=horizon, censoring=censoring
    )


def test_concordance_is_that_of_scikit_survival_and_lifelines():
    of = RISKS, TIMES, EVENTS
    train = fit(TIMES[:N_TRAIN], EVENTS[:N_TRAIN])
    found = [harrell(*of), uno(*of), uno(*of, 36.0), uno(*of, 36.0, train)]
    names = ("harrell", "uno", "uno_36", "uno_train_36")
    np.testing.assert_allclose(found, [GOLDEN[name] for name in names], rtol=1e-6)
    np.testing.assert_allclose(found[0], GOLDEN["lifelines"], rtol=1e-6)


def test_brier_scores_are_those_of_scikit_survival():
    found = brier(SURVIVAL, TIMES, EVENTS, HORIZONS, None)
    np.testing.assert_allclose(found, GOLDEN["brier"], rtol=1e-6)
    train = fit(TIMES[:N_TRAIN], EVENTS[:N_TRAIN])
    rest = (x[N_TRAIN:] for x in (SURVIVAL, TIMES, EVENTS))
    found = brier(*rest, HORIZONS, train)
    np.testing.assert_allclose(found, GOLDEN["brier_train"], rtol=1e-6)
    found = integrated(SURVIVAL, TIMES, EVENTS, HORIZONS, None)
    np.testing.assert_allclose(found, GOLDEN["integrated"], rtol=1e-6)


def test_the_curve_of_censoring_is_that_of_scikit_survival():
    curve = fit(TIMES, EVENTS)
    at = np.searchsorted(curve.times_B, HORIZONS, side="right") - 1
    found = np.asarray(curve.survival_B)[at]
    np.testing.assert_allclose(found, GOLDEN["censoring"], rtol=1e-6)


def test_without_censoring_nothing_is_weighted():
    all_seen = np.ones(len(TIMES), bool)
    np.testing.assert_array_equal(fit(TIMES, all_seen).survival_B, 1)
    of = RISKS, TIMES, all_seen
    np.testing.assert_allclose(uno(*of), harrell(*of), rtol=1e-6)
    found = brier(SURVIVAL, TIMES, all_seen, HORIZONS, None)
    alive = TIMES[:, None] > HORIZONS
    np.testing.assert_allclose(found, np.mean((SURVIVAL - alive) ** 2, 0), rtol=1e-6)


def test_a_weight_that_is_not_known_shows():
    # Censored before the event of the last: no one is left to say how likely that is.
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 1, 0]) == 1
    gone = metrics.Censoring(np.float32([1.0, 2.0]), np.float32([1.0, 0.0]))
    short = metrics.Censoring(np.float32([1.0, 2.0]), np.float32([1.0, 0.5]))
    risks = np.arange(4.0, dtype=np.float32)
    for curve in (gone, short):
        assert np.isnan(uno(risks, times, events, np.inf, curve))
        assert not np.isnan(uno(risks, times, events, 3.0, curve))
        found = brier(
            np.full((4, 2), 0.5, np.float32), times, events, np.array([1.5, 3.5]), curve
        )
        assert np.isnan(found).tolist() == [False, True]


def test_scores_without_a_value_are_nan():
    risks = np.arange(3, dtype=np.float32)
    never = np.zeros(3, bool)
    assert np.isnan(uno(risks, np.arange(3.0), never))
    assert np.isnan(uno(risks, np.arange(3.0), ~never, -1.0))


def test_horizons_that_cannot_be_are_named():
    score = partial(metrics.censored_brier_score, SURVIVAL, TIMES, events_B=EVENTS)
    with pytest.raises(ValueError, match=r"horizons_H: \[.*\], must increase"):
        score(horizons_H=HORIZONS[::-1])
    with pytest.raises(ValueError, match="horizons_H: .*, must increase"):
        score(horizons_H=np.full(5, np.nan))
    with pytest.raises(ValueError, match="horizons_H: shape .*needs 2"):
        metrics.integrated_brier_score(
            SURVIVAL[:, :1], TIMES, events_B=EVENTS, horizons_H=HORIZONS[:1]
        )
