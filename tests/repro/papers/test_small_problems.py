"""Papers on small problems: the toy regression, and digits."""

import dataclasses
import json
import math
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.nn import MLP
from lostjax.repro.__main__ import main
from lostjax.repro.papers import reweighting_toy as toy
from lostjax.repro.papers import saf_digits as digits
from lostjax.repro.papers.reweighting_toy import Problem, Toy, descend, make_problem
from lostjax.repro.papers.saf_digits import ERROR, START, Training


@pytest.mark.parametrize("shape", ["uniform", "lin_upper", "extremes"])
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
        scores = {"uniform": 0 * h, "extremes": np.abs(h)}
        scores["lin_upper"] = np.minimum(h + 1, 1)
        weights = np.exp(scores[shape])
        w = w - 0.1 * x.T @ (weights / weights.sum() * errors)
    got = descend(problem, toy=Toy(shape), step_size=0.1, steps=6)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_the_toys_easy_half_is_copies_and_its_hard_half_is_not():
    problem = make_problem(Toy(dimensions=3, rows=20, copied=2), seed=0)
    rows = np.asarray(problem.x_BD)
    assert rows.shape == (20, 3)
    assert len(np.unique(rows[:10], axis=0)) == 2
    assert len(np.unique(rows[10:], axis=0)) == 10
    np.testing.assert_allclose(np.linalg.norm(problem.true_D), 1.0, rtol=1e-6)
    other = make_problem(Toy(dimensions=3, rows=20, copied=2), seed=1)
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
        assert row["mean"][toy.LOSS] < math.log10(0.5 * 0.01)
        assert 1 <= row["mean"][toy.STEPS] < 50
    page = " ".join(capsys.readouterr().out.split())
    assert " runs took " in page and "tokens" not in page


TINY = Training(rows=64, hidden=8, epochs=START)
"""As long as all methods except SAM, smoothing and the average are the same."""


@cache
def fit(**changes):
    """Train one seed; its split and the parameters that are the model."""
    training = dataclasses.replace(TINY, **changes)
    splits, keys = digits._seeds(training.rows, (0,))
    seed = jax.tree.map(lambda leaf: leaf[0], splits), keys[0]
    train = jax.jit(digits.train, static_argnames="training")
    return seed[0], train(seed, jnp.float32(0.05), training=training)


def differ(first, second):
    pairs = zip(jax.tree.leaves(first[1]), jax.tree.leaves(second[1]), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("method", [{"saf": 0.3}, {"mesa": 0.8}], ids=str)
def test_the_past_counts_from_its_epoch_on_and_not_before(method):
    assert differ(fit(**method), fit()) == 0
    longer = {"epochs": START + 5}
    assert differ(fit(**method, **longer), fit(**longer)) > 1e-4


@pytest.mark.parametrize(
    "method", [{"smoothing": 0.1}, {"sam_radius": 0.05}, {"averaged": True}], ids=str
)
def test_every_control_does_something(method):
    assert differ(fit(**method), fit()) > 1e-4


def test_measures_are_those_of_the_held_out_digits_for_each_seed():
    both = digits.train_seeds(TINY, learning_rate=0.05, seeds=[0, 1])
    assert set(both) == set(digits.EXPERIMENT.measures)
    assert all(len(values) == 2 and values[0] != values[1] for values in both.values())
    split, params = fit()
    x_BM = split.heldout.inputs.reshape(-1, 64)
    logits_BV = MLP((8, 8, 10)).apply({"params": params}, x_BM)
    labels_B = np.asarray(split.heldout.labels)
    assert len(labels_B) == 1797 - TINY.rows
    wrong_B = np.argmax(logits_BV, -1) != labels_B
    np.testing.assert_allclose(both[ERROR][0], 100 * wrong_B.mean(), atol=0.2)
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BV, labels_B)
    np.testing.assert_allclose(both[digits.LOSS][0], 1000 * nats_B.mean(), rtol=1e-3)


def test_without_scikit_learn_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._seeds.cache_clear()
    words = ["saf_digits", "--scale=smoke", f"--results={tmp_path}"]
    assert main(words) == 2
    assert "pip install 'lostjax[digits]'" in capsys.readouterr().err
