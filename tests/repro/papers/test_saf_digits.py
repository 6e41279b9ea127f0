"""The repro of SAF and MESA on digits: how its methods differ, and that it runs."""

import json
import sys

import jax
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.digits import (
    START,
    DigitsScale,
    Method,
    load_digits,
    split_digits,
    train,
)
from lostjax.repro.papers import saf_digits
from lostjax.repro.papers.saf_digits import (
    COMPARISONS,
    ERROR,
    LOSS,
    MEASURES,
    METHODS,
    judge_params,
)

TINY = DigitsScale("tiny", rows=64, hidden=8, epochs=START)
"""As long as all methods but SAM and smoothing are the same."""


@pytest.fixture(scope="module")
def split():
    return split_digits(load_digits(), rows=TINY.rows, seed=0)


@pytest.fixture(scope="module")
def plain(split):
    return fit(split, Method())


def fit(split, method, scale=TINY):
    jitted = jax.jit(train, static_argnames=("method", "scale"))
    return jitted(split, jax.random.key(1), 0.05, method=method, scale=scale)


def differ(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_a_split_holds_every_digit_once(split):
    digits = load_digits()
    assert len(split.train.labels_B) == TINY.rows
    parts = np.concatenate([split.train.x_BM, split.heldout.x_BM])
    assert parts.shape == digits.x_BM.shape
    assert 0 == parts.min() < parts.max() == 1
    by_pixels = [np.lexsort(np.asarray(x).T) for x in (parts, digits.x_BM)]
    np.testing.assert_array_equal(parts[by_pixels[0]], digits.x_BM[by_pixels[1]])


@pytest.mark.parametrize("method", [Method(saf=0.3), Method(mesa=0.8)], ids=str)
def test_the_past_counts_from_its_epoch_on_and_not_before(split, plain, method):
    assert differ(fit(split, method), plain) == 0
    longer = TINY._replace(epochs=START + 5)
    assert differ(fit(split, method, longer), fit(split, Method(), longer)) > 1e-4


@pytest.mark.parametrize(
    "method",
    [Method(smoothing=0.1), Method(sam_radius=0.05), Method(averaged=True)],
    ids=str,
)
def test_every_control_does_something(split, plain, method):
    assert differ(fit(split, method), plain) > 1e-4


def test_errors_are_those_of_the_held_out_digits(split, plain):
    found = judge_params(split, plain)
    x_BM = np.asarray(split.heldout.x_BM)
    for layer in plain[:-1]:
        x_BM = np.maximum(x_BM @ layer["kernel"] + layer["bias"], 0)
    logits_BV = x_BM @ plain[-1]["kernel"] + plain[-1]["bias"]
    wrong_B = logits_BV.argmax(-1) != np.asarray(split.heldout.labels_B)
    np.testing.assert_allclose(found[ERROR], 100 * wrong_B.mean(), rtol=1e-5)


def test_it_runs_and_tunes_loss_and_errors_apart(tmp_path, capsys, monkeypatch):
    kept = {name: METHODS[name] for name in ("SGD", "SAF")}
    monkeypatch.setattr(saf_digits, "METHODS", kept | {"MESA": METHODS["MESA"]})
    words = ["saf_digits", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "saf_digits-smoke.json").read_text())
    assert claim["swept"] == LOSS
    for row in claim["rows"]:
        assert list(row["measures"]) == list(MEASURES)
        rates = list(map(float, row["swept"]))
        assert min(rates) < row["learning_rate"] < max(rates)
        best = row["swept"][str(row["learning_rate"])]
        assert best == min(row["swept"].values())
        assert row["mean"][LOSS] == pytest.approx(best)
        assert 5 < row["mean"][ERROR] < 60
    made = {(one["first"], one["second"]) for one in claim["findings"]}
    assert made == {("SAF", "SGD"), ("MESA", "SGD")}
    assert (tmp_path / "saf_digits-smoke.md").read_text() == capsys.readouterr().out


def test_every_compared_method_is_there():
    assert {name for one in COMPARISONS for name in one[:2]} == set(METHODS)


def test_without_scikit_learn_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["saf_digits", "--scale=smoke", f"--results={tmp_path}"]) == 2
    assert "pip install 'lostjax[digits]'" in capsys.readouterr().err
