"""Planted keys, and what is read off the methods' scores."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.analysis import ngram_sampler
from lostjax.analysis.attribution.samplers import fit_neighbours, table_sampler
from lostjax.repro.__main__ import main
from lostjax.repro.papers import reagent as paper
from lostjax.repro.papers.reagent import models, scoring
from lostjax.repro.papers.reagent.models import INPUTS, PLACES, PROMPT, Text

TEXT = Text(
    *(np.arange(10, 10 + n, dtype=np.int32) for n in (90, 60, 70)),
    eos=0, keys_K=np.array([1, 2]), answers_K=np.array([3, 4]), query=5,
)  # fmt: skip


def test_a_key_is_planted_far_from_its_answer(monkeypatch):
    monkeypatch.setattr(models, "N_KEYS", 2)
    rows_BN = models.draw_text(
        jax.random.key(0), jnp.asarray(TEXT.train_N), count=64, eos=0
    )
    assert (rows_BN[:, 0] == 0).all() and (jnp.diff(rows_BN[:, 1:]) == 1).all()
    planted = models.plant(jax.random.key(1), rows_BN, TEXT)
    rows_BN, found_BN = np.asarray(rows_BN), np.asarray(planted.rows_BN)
    changed_B, changed_N = np.nonzero(rows_BN != found_BN)
    assert set(planted.places_B.tolist()) <= set(range(PLACES))
    assert len(set(planted.places_B.tolist())) > PLACES / 2
    for row, place in enumerate(planted.places_B.tolist()):
        at = changed_N[changed_B == row].tolist()
        assert at == [1 + place, INPUTS - 1, INPUTS]
        key, query, answer = found_BN[row, at]
        assert query == 5 and answer == key + 2 and key in (1, 2)


def test_a_table_of_neighbours_is_the_sampler_of_its_prompt():
    text = np.array([1, 2, 3, 1, 2, 4, 1, 3, 2, 0])
    prompt_T = np.array([1, 2, 3])
    table = jnp.asarray(fit_neighbours(text, prompt_T, vocab_size=5))
    sampler = ngram_sampler(text, prompt_T, vocab_size=5)
    traced = jax.jit(lambda ends, key: table_sampler(ends)(key, jnp.asarray(prompt_T)))
    for seed in range(20):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(sampler(key, jnp.asarray(prompt_T)),
                                      traced(table, key))  # fmt: skip


def test_measures_are_means_over_models_and_prompts(monkeypatch):
    places_P = np.array([0, 3])

    def score(method, size, variables, *, prompts, seed):
        # The smallest model's method finds one of two keys, by a negative score.
        wide = float(size.width > 24)
        scores_PT = np.zeros((2, PROMPT))
        scores_PT[0, 0] = -1
        scores_PT[1, 3 if wide else 4] = 1
        good_P = np.array([0.5, 0.7]) + 0.1 * wide
        found = scores_PT, good_P, good_P + 0.1, np.array([4, 6])
        return scoring.Found(*map(jnp.asarray, found))

    nothing = jnp.zeros(())
    drawn = scoring.Prompts(nothing, 0, nothing, jnp.asarray(places_P))
    monkeypatch.setattr(paper, "_train", lambda *_: {})
    monkeypatch.setattr(paper, "_draw", lambda *_: drawn)
    monkeypatch.setattr(paper, "score_prompts", score)
    found = paper.measure(paper.Explaining(sizes=2), None, 0)
    assert found[paper.MISSED] == pytest.approx(25)
    assert found[paper.LOST] == pytest.approx((0.4 + 0.3) / 2)
    assert found[paper.KEPT] == pytest.approx((0.3 + 0.2) / 2)
    assert found["1 - sufficiency, width 48"] == pytest.approx(0.3)
    assert found[paper.PASSES] == 5


def test_a_model_that_has_not_learnt_the_keys_is_refused(monkeypatch):
    size = models.Size(4, 1, 0.0)
    monkeypatch.setattr(scoring, "read_text", lambda: TEXT)
    monkeypatch.setattr(models, "N_KEYS", 2)
    model = models.make_model(size)
    variables = model.init(jax.random.key(0), jnp.zeros((1, INPUTS), jnp.int32))
    with pytest.raises(ValueError, match="of 64 answers are right: the model has not"):
        scoring.draw_prompts(size, variables, count=2, seed=0, part="test_L", key=True)


@pytest.mark.slow
def test_a_trained_model_s_keys_are_found(tmp_path):
    words = ["reagent", "--scale=smoke", "--seeds=2", f"--results={tmp_path}"]
    assert main(words) == 0
    claim = json.loads((tmp_path / "reagent-smoke.json").read_text())
    missed = {row["method"]: row["mean"][paper.MISSED] for row in claim["rows"]}
    assert missed[paper.REAGENT] == 0 and missed["random"] > 50
