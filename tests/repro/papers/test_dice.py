"""Dice losses on rare tags: windows, thresholds, and a whole run on a tiny corpus."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from lostjax.data import TaggedText
from lostjax.repro.__main__ import main
from lostjax.repro.problems import rare_tags
from lostjax.repro.problems.rare_tags import (
    ENDINGS,
    ENTITIES,
    TAGS,
    TWEETS,
    WORDS,
    Tagging,
    draw_parts,
    find_threshold,
    miss_f1,
)
from lostjax.repro.problems.tag_losses import LOSSES, METHODS

WORDS_OF_TAGS = {"ql": "very", "rp": "up", "rbr": "more", "uh": "oh", "nn": "house"}


def make_text(number):
    """Make a text whose tags follow from its words."""
    generator = np.random.default_rng(number)
    tags = tuple(
        tuple(generator.choice(list(WORDS_OF_TAGS), size=6)) for _ in range(20)
    )
    words = tuple(tuple(WORDS_OF_TAGS[tag] for tag in sentence) for sentence in tags)
    return TaggedText(f"ca{number:02}", words, tags)


@pytest.fixture
def corpus(monkeypatch):
    texts = tuple(map(make_text, range(10)))
    monkeypatch.setattr(rare_tags, "_load", lambda data: texts)
    draw_parts.cache_clear()
    yield texts
    draw_parts.cache_clear()


def test_windows_show_neighbours_of_the_same_sentence(corpus):
    config = Tagging(train_texts=4, valid_texts=2, test_texts=2)
    train, valid, test = draw_parts(config, 0)
    assert [len(part.seen_NW2) for part in (train, valid, test)] == [480, 240, 240]
    assert train.labels_NT.shape == (480, len(TAGS))
    sentence = train.seen_NW2[:6, :, 0]
    np.testing.assert_array_equal(sentence[0, :2], [WORDS - 1] * 2)
    np.testing.assert_array_equal(sentence[5, 3:], [WORDS - 1] * 2)
    for place in range(2, 4):
        near = sentence[place - 2 : place + 3, 2]
        np.testing.assert_array_equal(sentence[place], near)
    assert (train.seen_NW2[:6, 2, 1] < ENDINGS - 2).all(), "every ending is known"
    other = draw_parts(config, 1)[0]
    assert not np.array_equal(other.seen_NW2, train.seen_NW2)


@pytest.fixture
def tweets(monkeypatch):
    """Tweets whose tags follow from their words, and nine that were sent twice."""

    def make(number):
        words = ("goes", "Ann", "Lee", str(number), "Rome")
        tags = ("O", "B-person", "I-person", "O", "B-geo-loc")
        return TaggedText(f"tweet {number:04}", (words,), (tags,))

    made = tuple(map(make, range(200)))
    monkeypatch.setattr(rare_tags, "load_tweets", lambda: (*made, *made[:9]))
    rare_tags._load.cache_clear()
    draw_parts.cache_clear()
    yield made
    rare_tags._load.cache_clear()
    draw_parts.cache_clear()


SMALL = Tagging(
    data=TWEETS, tags=ENTITIES, train_texts=40, valid_texts=20, test_texts=20
)


def test_words_of_an_entity_are_those_that_begin_it_and_go_on(tweets):
    train, _, test = draw_parts(SMALL, 0)
    person, place = (train.labels_NT[:, ENTITIES.index(x)] for x in ENTITIES[:2])
    np.testing.assert_array_equal(person.reshape(-1, 5), [[0, 1, 1, 0, 0]] * 40)
    np.testing.assert_array_equal(place.reshape(-1, 5), [[0, 0, 0, 0, 1]] * 40)
    assert not train.labels_NT[:, 2:].any() and len(test.labels_NT) == 100


def test_a_tweet_that_was_sent_twice_is_there_once(tweets):
    loaded = rare_tags._load(TWEETS)
    assert len(rare_tags.load_tweets()) == 209
    assert len({t.sentences for t in loaded}) == len(loaded) == 200


@pytest.mark.parametrize(
    "word, clue",
    [("Ann-Marie", "Aa-Aa ie"), ("NASA", "A sa"), ("4th", "0a th"), ("@you", "@a ou")],
)
def test_the_clue_of_a_tweets_word_is_its_shape(word, clue):
    assert rare_tags.shape_of(word) == clue


def test_another_loss_may_be_descended_first(tweets):
    train, _, _ = draw_parts(SMALL, 0)

    def params(loss, first, steps):
        config = dataclasses.replace(SMALL, steps=steps, rows=32, first=first)
        made = rare_tags.train_all(
            train,
            jnp.int32(len(train.seen_NW2)),
            jnp.ones(1),
            jax.random.key(0),
            jnp.float32(0.01),
            loss=LOSSES[loss],
            first=LOSSES[first or loss],
            config=config,
        )
        return np.asarray(made["words"])

    moved = params("set dice", "cross entropy", 4) - params("set dice", "", 4)
    assert np.abs(moved).max() > 1e-4


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=30))
def test_the_threshold_has_the_best_f1(rows):
    logits = np.array([float(logit) for logit, _ in rows])
    labels = np.array([label for _, label in rows])
    threshold, missed = find_threshold(logits, labels)
    assert missed == pytest.approx(miss_f1(logits, labels, threshold))
    for other in [-np.inf, *logits]:
        score = f1_score(labels, logits > other, zero_division=0.0)
        assert miss_f1(logits, labels, other) == pytest.approx(1 - score)
        assert missed <= 1 - score + 1e-9


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_pulls_a_positive_up_and_a_negative_down(name):
    logits, labels = jnp.array([0.3, -0.2, 0.1]), jnp.array([1, 0, 0])
    setting = dict(METHODS.values())[name][-1]
    slopes = jax.jit(jax.grad(LOSSES[name]))(logits, labels, jnp.float32(setting))
    assert slopes[0] < 0 and slopes[1] > 0 and slopes[2] > 0


@pytest.mark.slow
def test_a_whole_run_is_measured_and_written(corpus, tmp_path, capsys):
    assert main(["dice", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]) == 0
    claim = json.loads((tmp_path / "dice-smoke.json").read_text())
    assert [row["method"] for row in claim["rows"]] == ["cross entropy", "set dice"]
    assert {f["first"] for f in claim["findings"]} == {"set dice"}
    for row in claim["rows"]:
        assert all(
            0 <= value <= 1 for values in row["measures"].values() for value in values
        )
        assert row["mean"]["1 - F1"] < 0.5, "tags that follow from words are learnt"
    capsys.readouterr()


@pytest.mark.slow
def test_entities_are_measured_with_the_methods_that_follow_on_cross_entropy(
    tweets, tmp_path, capsys
):
    words = ["dice_entities", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "dice_entities-smoke.json").read_text())
    assert len(claim["rows"]) == 3
    found = {(f["first"], f["second"]) for f in claim["findings"]}
    assert ("cross entropy, then set dice", "cross entropy") in found
    capsys.readouterr()
