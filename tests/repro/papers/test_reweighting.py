"""The repros of loss-based weights: what differs between methods, and that they run."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses
from lostjax.repro.__main__ import main
from lostjax.repro.claims import BITS
from lostjax.repro.papers.reweighting import (
    ALONE,
    EASY,
    FRESH,
    HALF,
    METHODS,
    QUARTER,
    SCALES,
    build_methods,
    measure_half,
    measure_quarter,
)
from lostjax.repro.papers.reweighting_toy import (
    LOSS,
    STEPS,
    Problem,
    ToyScale,
    descend,
    make_problem,
)
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import diff_configs
from lostjax.train.evaluate import Evaluation
from lostjax.train.trial import Trial


def test_methods_differ_in_their_weights_and_the_control_in_its_text():
    methods = build_methods(SCALES["small"].config)
    assert set(methods) == set(METHODS)
    for name, config in methods.items():
        check_config(config)
        shape = name.removesuffix(ALONE)
        shape = "none" if shape == "uniform" else shape
        differences = []
        if shape != "none":
            differences.append(f"--objective.reweight: none there, {shape} now")
        if name.endswith(ALONE):
            mixture = f"0.5*{EASY},0.5*{FRESH}"
            differences.append(f"--data.source: {mixture} there, {FRESH} now")
        assert sorted(diff_configs(methods["uniform"], config)) == sorted(differences)


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_progress_is_read_at_steps_that_are_evaluated(scale):
    steps, every = scale.config.steps, scale.config.eval_every
    along = {
        step: Evaluation(loss=1.0, perplexity=2.0, bits_per_byte=step / 8, tokens=9)
        for step in range(every, steps + 1, every)
    }
    trial = Trial([1.0] * steps, along[steps], 100, evaluations=along)
    assert measure_quarter(trial) == steps / 4 / 8
    assert measure_half(trial) == steps / 2 / 8


def test_smoke_scale_learns_and_keeps_its_progress(tmp_path, capsys, monkeypatch):
    # The cells of a method share most programs.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    words = ["reweighting", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "reweighting-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["uniform", "lin_upper"]
    for row in claim["rows"]:
        # A uniform model over 257 tokens has 8 bits a byte, letters by frequency 4.4.
        assert list(row["mean"]) == [BITS, QUARTER, HALF]
        assert 3.0 < row["mean"][BITS] < row["mean"][HALF] < row["mean"][QUARTER] < 6.0
    first, second = (row["measures"][BITS] for row in claim["rows"])
    assert not set(first) & set(second), "the weights change nothing"
    measured = [finding["measure"] for finding in claim["findings"]]
    assert measured == [BITS, QUARTER, HALF]
    assert (tmp_path / "reweighting-smoke.md").read_text() == capsys.readouterr().out


@pytest.mark.parametrize("shape", [None, losses.lin_upper, losses.extremes])
def test_the_toys_descent_is_that_of_numpy(shape):
    generator = np.random.default_rng(3)
    x, true = generator.normal(size=(12, 5)), generator.normal(size=5)
    problem = Problem(jnp.asarray(x, jnp.float32), jnp.asarray(true, jnp.float32))
    w, expected = np.zeros(5), []
    for _ in range(7):
        expected.append(np.sum((w - true) ** 2) / 2)
        errors = x @ w - x @ true
        rows = errors**2 / 2
        h = 2 * (rows - rows.min()) / np.ptp(rows) - 1
        scores = {None: 0 * h, losses.extremes: np.abs(h)}
        scores[losses.lin_upper] = np.minimum(h + 1, 1)
        weights = np.exp(scores[shape])
        w = w - 0.1 * x.T @ (weights / weights.sum() * errors)
    got = descend(problem, shape=shape, step_size=0.1, steps=6)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_the_toys_easy_half_is_copies_and_its_hard_half_is_not():
    scale = ToyScale("tiny", dimensions=3, rows=20, copied=2)
    problem = make_problem(scale, seed=0)
    rows = np.asarray(problem.x_BD)
    assert rows.shape == (20, 3)
    assert len(np.unique(rows[:10], axis=0)) == 2
    assert len(np.unique(rows[10:], axis=0)) == 10
    np.testing.assert_allclose(np.linalg.norm(problem.true_D), 1.0, rtol=1e-6)
    other = make_problem(scale, seed=1)
    assert not np.allclose(other.true_D, problem.true_D)


def test_the_toy_says_what_it_ran_and_nothing_of_tokens(tmp_path, capsys):
    words = ["reweighting_toy", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "reweighting_toy-smoke.json").read_text())
    assert claim["cost"]["runs"] == 2 * sum(len(row["swept"]) for row in claim["rows"])
    for row in claim["rows"]:
        rates = list(map(float, row["swept"]))
        assert min(rates) < row["learning_rate"] < max(rates)
        # The loss is .5 at first; 1 % of that is met before the last of 50 steps.
        assert row["mean"][LOSS] < math.log10(0.5 * 0.01)
        assert 1 <= row["mean"][STEPS] < 50
    page = " ".join(capsys.readouterr().out.split())
    assert " runs took " in page and "tokens" not in page
