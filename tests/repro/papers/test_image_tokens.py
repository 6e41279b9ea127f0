"""Captions of pictures: the split, the weights, what is counted, and a whole run."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.repro.__main__ import main
from lostjax.repro.papers import image_tokens as paper
from lostjax.repro.papers.image_tokens import pictures, training
from lostjax.repro.papers.image_tokens.pictures import Captioning, Task, load_pictures

DIGITS = Captioning(source="digits", width=16, layers=1, steps=3, alpha=1.0)


@pytest.fixture
def variants(monkeypatch):
    """Digits of which each three, or a hundred, are one family."""

    def load(source):
        assert source == "variants"
        digits = load_pictures("digits")
        rows = range(len(digits.codes))
        families = ["one" if row < 100 else str(row // 3) for row in rows]
        return digits._replace(families=tuple(families))

    monkeypatch.setattr(pictures, "load_pictures", load)
    return load("variants")


def test_no_family_is_on_two_sides(variants):
    task = pictures.make_task("variants", 1.0, 0)
    parts = [task.train, task.validation, task.test]
    families = [{variants.families[row] for row in part} for part in parts]
    assert not families[0] & families[1]
    assert not families[0] & families[2] and not families[1] & families[2]
    counts = np.array([len(each) for each in families])
    np.testing.assert_allclose(counts / counts.sum(), [0.7, 0.15, 0.15], atol=0.01)
    (most,) = [part for part, of in zip(parts, families, strict=True) if "one" in of]
    assert sum(variants.families[row] == "one" for row in most) == pictures.VARIANTS
    half = pictures.make_task("variants", 0.5, 0)
    assert set(half.train) < set(task.train)
    np.testing.assert_array_equal(half.test, task.test)
    assert half.captions.words == task.captions.words
    other = pictures.make_task("variants", 1.0, 1)
    assert set(other.test) != set(task.test)


@pytest.fixture
def reference(monkeypatch):
    """A reference that is sure of the first half of every caption."""
    kinds_NT = pictures.make_task("digits", 1.0, 0).captions.kinds_NT
    losses_NT = np.where(np.arange(kinds_NT.shape[1]) < 4, 1e-3, 3.0)
    losses_NT = np.broadcast_to(losses_NT, kinds_NT.shape)
    monkeypatch.setattr(
        training, "score_reference", lambda config, seed: jnp.asarray(losses_NT)
    )
    return kinds_NT


def test_weights_have_mean_1_and_the_control_has_them_elsewhere(reference):
    there_NT = reference > 0
    weigh = training.weigh_tokens.__wrapped__
    factors_NT = np.asarray(weigh(DIGITS, 0))
    assert (factors_NT[~there_NT] == 0).all()
    means_N = factors_NT.sum(axis=1) / there_NT.sum(axis=1)
    np.testing.assert_allclose(means_N, 1, rtol=1e-5)
    assert (factors_NT[:, :4] < 0.01).all()
    floor = np.asarray(weigh(dataclasses.replace(DIGITS, min_weight=0.1), 0))
    assert (floor[:, :4] > 0.1).all()
    shuffled = np.asarray(weigh(dataclasses.replace(DIGITS, shuffled=True), 0))
    np.testing.assert_allclose(np.sort(shuffled), np.sort(factors_NT), rtol=1e-6)
    assert (shuffled[~there_NT] == 0).all()
    assert (shuffled[:, :4] > 0.5).mean() > 0.2


def test_words_that_are_said_nowhere_are_hallucinated(monkeypatch):
    task = pictures.make_task("digits", 1.0, 0)
    index = {word: token for token, word in enumerate(task.captions.words)}
    rows = np.array(
        [r for r in task.test if index["even"] in task.captions.said[r]][:2]
    )
    task = Task(*task[:-1], rows)
    words = ["a", "handwritten", "even", "odd", "digit", "<end>", "odd", "odd"]
    told_T = jnp.asarray([index[word] for word in words], jnp.int32)
    monkeypatch.setattr(
        paper, "sample_tokens", lambda *_, **__: jnp.stack([told_T, told_T])
    )
    config = dataclasses.replace(DIGITS, sees=False)
    hallucinated, missed = paper.describe_pictures(config, {"model": {}}, task)
    assert hallucinated == pytest.approx(25)  # odd, of four words
    assert missed == pytest.approx(25)  # the digit's name, of four words


@pytest.mark.slow
def test_a_whole_claim_of_the_smoke_scale(tmp_path):
    words = ["image_tokens", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "image_tokens-smoke.json").read_text())
    assert {row["method"] for row in claim["rows"]} == {
        *("plain", "alpha 1", "without picture")
    }
    for row in claim["rows"]:
        assert list(row["mean"]) == list(paper.EXPERIMENT.measures)
        assert all(math.isfinite(value) for value in row["mean"].values())
        # Of ten names a guess misses nine: a nat is far less.
        assert row["mean"][paper.LOSS] < 1500
