"""The word model: its text, both output layers, and how misses are counted."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses
from lostjax.optim import factored_output
from lostjax.repro.__main__ import main
from lostjax.repro.papers import spherical as paper
from lostjax.repro.problems import speech_words, word_model
from lostjax.repro.problems.word_model import SPHERICAL, Settings, Training

TINY = Training(rows=5, context=2, embedding=3, hidden=4, speeches=3, steps=4, scored=6)
WORDS = 12


@pytest.fixture
def text(monkeypatch):
    """Three speeches to train and tune on, two to test."""
    said = ["a b, c d a b", "e f g a b c d", "a c e g h", "i a b c d e f", "j a b"]
    corpus = SimpleNamespace(train=said[:3], heldout=said[3:])
    monkeypatch.setattr(speech_words, "open_corpus", lambda source: corpus)
    monkeypatch.setattr(word_model, "TOP", (1, 2, 5))
    for cached in (speech_words.read_text, word_model.build_programs):
        cached.cache_clear()
    yield speech_words.read_text(3)
    for cached in (speech_words.read_text, word_model.build_programs):
        cached.cache_clear()


def test_every_word_of_all_speeches_is_a_class_and_speeches_are_split(text):
    words = sorted(set("abcdefghij,"))
    assert text.n_words == len(words)
    parts = ["".join(words[number] for number in part) for part in text[:3]]
    assert parts == ["ab,cdabefgabcd", "acegh", "iabcdefjab"]


def make_state(loss):
    state = word_model.start(
        dataclasses.replace(TINY, loss=loss), WORDS, jax.random.key(0)
    )
    batch = jnp.array([[0, 1], [1, 1], [2, 0], [3, 4], [5, 6]]), jnp.arange(5) * 2
    return state, batch


def test_a_factored_step_is_the_step_by_autodiff_of_a_dense_layer():
    loss = "spherical softmax"
    config = dataclasses.replace(TINY, loss=loss)
    settings = Settings(0.1, list(SPHERICAL).index(loss))
    state, batch = make_state(loss)

    @jax.jit
    def run(state):
        after, _ = word_model.make_step(config, WORDS, settings)(state, batch)
        weights = factored_output.dense_weights(state.output)

        def mean_loss(weights, body, embedded):
            logits = word_model.apply_body(config, body, embedded) @ weights.T
            sums = losses.sum_logits(logits, batch[1])
            return SPHERICAL[loss](sums, n_classes=WORDS).mean()

        given = weights, state.body, state.embedding_VE[batch[0]]
        slope, _, of_words = jax.grad(mean_loss, (0, 1, 2))(*given)
        return after, weights - 0.1 * slope, of_words

    after, expected, slope_BCE = run(state)
    found = factored_output.dense_weights(after.output)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Word 1 occurs three times; words 7 to 11 do not.
    moved = np.asarray(after.embedding_VE - state.embedding_VE)
    assert not moved[7:].any() and moved[:7].any(-1).all()
    ones = slope_BCE[jnp.array([0, 1, 1]), jnp.array([1, 0, 1])]
    expected = -word_model.EMBEDDING_RATE * ones.sum(0) / np.sqrt((ones**2).sum())
    np.testing.assert_allclose(moved[1], expected, rtol=1e-3)


def test_misses_are_counted_and_a_model_that_diverged_has_none(text):
    programs = word_model.build_programs(word_model.shared_part(TINY))
    state = programs.start(jax.random.key(0))
    # Logits that fall from the first word on, whatever the context.
    weights = jnp.zeros_like(state.output).at[:, -1].set(-jnp.arange(text.n_words))
    state = state._replace(output=1e3 * weights)
    words = np.array([0, 0, 0, 3, 1, 10], np.int32)
    found = word_model.count_misses(TINY, state, words, scored=4)
    np.testing.assert_allclose(found, [75, 50, 25], rtol=1e-5)
    broken = state._replace(output=weights.at[0, 0].set(jnp.nan))
    assert np.isnan(word_model.count_misses(TINY, broken, words, scored=4)).all()


def test_methods_share_programs_by_their_output_layer_alone():
    methods = paper.build_methods(paper.EXPERIMENT.scales["small"])
    shared = {name: word_model.shared_part(of) for name, of in methods.items()}
    assert len(set(shared.values())) == 2
    assert shared[paper.SGD] == shared[paper.SGD_BRIEF]
    assert shared[paper.Z[0]] == shared[paper.CONTROL] == shared[paper.OTHERS[0]]


def test_the_same_time_is_fewer_steps_of_softmax_and_nothing_else():
    methods = paper.build_methods(paper.EXPERIMENT.scales["small"])
    whole, short = methods[paper.SGD], methods[paper.SGD_BRIEF]
    assert short == dataclasses.replace(whole, steps=short.steps)
    ratio = whole.steps / short.steps
    assert ratio == pytest.approx(paper.TIMES_AS_LONG, rel=0.1)


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path):
    words = ["spherical", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "spherical-smoke.json").read_text())
    for row in claim["rows"]:
        misses = [row["mean"][name] for name in paper.MISSES.values()]
        assert misses == sorted(misses, reverse=True) and misses[0] > 50
