"""Forecasts of loss curves: planted laws come back; the target is not read."""

import dataclasses

import numpy as np
import pytest

from lostjax.analysis.scaling import PowerLaw, StepLaw
from lostjax.repro.papers import loss_curves as paper
from lostjax.repro.papers.loss_curves import (
    ERROR,
    LAST,
    METHODS,
    OURS,
    STEPS,
    Study,
    list_large,
    list_small,
    measure,
)
from lostjax.repro.problems import byte_models
from lostjax.repro.problems import curve_forecasts as forecasts
from lostjax.repro.problems.byte_models import Curves, Run, train_curves
from lostjax.repro.problems.curve_forecasts import Curve, follow_law

LAW = StepLaw(PowerLaw(5e7, 0.09), PowerLaw(12.0, 5.0), PowerLaw(30.0, 0.6))


def plant(runs):
    """Make the exact curves of a law."""
    steps, true = np.arange(40, 241, 20), follow_law(LAW)
    sizes = [24 * run.width**2 for run in runs]
    return [
        Curve(size, run.batch, steps, true(size, run.batch, steps))
        for size, run in zip(sizes, runs, strict=True)
    ]


@pytest.fixture(scope="module")
def planted():
    small = plant(list(list_small(Study(), context=64)))
    return small, plant(list(list_large(Study())))


def test_the_step_law_forecasts_what_it_made(planted):
    small, large = planted
    forecast = METHODS[OURS](small)
    assert forecasts.score_curve(forecast, large) < 1e-3
    assert forecasts.score_last(forecast, large) < 1e-3
    assert forecasts.score_steps(forecast, large) < 1e-2


@pytest.mark.parametrize("method", sorted(set(METHODS) - {OURS}))
def test_others_err_on_curves_of_the_law(planted, method):
    small, large = planted
    error = forecasts.score_curve(METHODS[method](small), large)
    assert 2e-3 < error < 0.2


def test_naive_forecasts_are_what_they_are_named_for(planted):
    small, _ = planted
    nearest = METHODS["nearest curve"](small)
    largest = next(each for each in small if each.n_params == 24 * 96**2)
    np.testing.assert_allclose(nearest(1, 256, largest.steps), largest.losses)
    assert nearest(1, 256, np.array([9000])) == largest.losses[-1]
    powers = [
        each._replace(losses=3 * (each.n_params / 1e4) ** -0.1 * each.steps**-0.2)
        for each in small
    ]
    at = np.array([60, 200, 500])
    line = METHODS["power law in steps"](powers)
    np.testing.assert_allclose(
        line(1, 256, at), 3 * (24 * 96**2 / 1e4) ** -0.1 * at**-0.2
    )
    sizes = METHODS["size at each step"](powers)
    np.testing.assert_allclose(
        sizes(10**6, 256, at[:1]), 3 * 100**-0.1 * at[:1] ** -0.2
    )


def test_steps_to_a_loss_are_compared_as_ratios():
    steps = np.arange(40, 241, 20)
    target = Curve(1, 256, steps, 10 * steps**-0.5)
    twice = forecasts.score_steps(lambda n, b, s: 10 * (s / 2) ** -0.5, [target])
    np.testing.assert_allclose(twice, 1.0, rtol=2e-2)
    same = forecasts.score_steps(lambda n, b, s: 10 * s**-0.5, [target])
    assert same < 1e-2


def test_a_refused_control_is_the_nearest_curve(planted):
    small, _ = planted
    worse = [each._replace(losses=each.n_params**0.1 + each.losses) for each in small]
    steps = np.array([100])
    control, near = (
        METHODS[name](worse)(1, 256, steps)
        for name in ("batches swapped", "nearest curve")
    )
    assert control == near


def test_forecasts_are_made_before_the_large_model_is_trained(monkeypatch):
    trained = []

    def train(run, seeds):
        trained.append(run)
        curve = plant([run])[0]
        losses = np.stack([curve.losses] * len(seeds))
        return run, Curves(curve.n_params, curve.steps, losses)

    def forecast(curves):
        assert next(list_large(Study())) not in trained
        assert {curve.n_params for curve in curves} == {24 * w**2 for w in (32, 64, 96)}
        trained.append("forecast")
        return follow_law(LAW)

    monkeypatch.setattr(paper, "_train", train)
    monkeypatch.setattr(paper, "METHODS", {OURS: forecast})
    found = measure(Study(), learning_rate=None, seeds=(0, 1))
    assert trained[-3:-1] == ["forecast"] * 2
    assert trained[-1] == next(list_large(Study()))
    assert max(found[ERROR] + found[LAST] + found[STEPS]) < 1.0
    assert {run.context for run in trained if isinstance(run, Run)} == {64}


@pytest.mark.slow
def test_byte_models_learn_and_seeds_differ():
    run = Run(16, rows=4, steps=40, rate=1e-2, context=16, warmup=5, scored=16)
    curves = train_curves(run, (0, 1))
    assert curves.losses_SK.shape == (2, 2)
    assert (curves.losses_SK[:, 1] < 5.0).all()
    assert curves.losses_SK[0, 1] != curves.losses_SK[1, 1]
    shorter = train_curves(dataclasses.replace(run, steps=20), (0, 1))
    np.testing.assert_allclose(shorter.losses_SK[:, 0], curves.losses_SK[:, 0])
    assert curves.n_params == 2 * (4 * 16**2 + 3 * 16 * 40 + 2 * 16)


def test_texts_share_no_speech():
    text = byte_models.read_bytes()
    assert len(text.train) > 10 * max(len(text.validation), len(text.test))
    start = text.test[:200].tobytes()
    assert start not in text.train.tobytes()
    assert start not in text.validation.tobytes()
