"""Evaluation against closed forms: a uniform model, and a model that is a table."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import metrics
from lostjax.data import prepare_data
from lostjax.steps.score import make_score_step
from lostjax.steps.step import make_eval_step
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.evaluate import evaluate, score


class Table(nn.Module):
    """A model without context: the same logits everywhere."""

    def setup(self):
        self.head = Logits()

    def final_states(self, tokens_BT, *, segments_BT, positions_BT):
        return jnp.zeros((*tokens_BT.shape, 1))

    def unembed(self, states_BTD):
        return jnp.broadcast_to(self.head(), (*states_BTD.shape[:2], 257))


class Logits(nn.Module):
    """A parameter."""

    @nn.compact
    def __call__(self):
        return self.param("logits", nn.initializers.zeros, (257,))


@pytest.fixture(scope="module")
def data(text_file, cache_dir):
    return prepare_data(
        str(text_file), tokenizer="bytes", seq_len=48, batch_size=8, seed=0,
        cache_dir=cache_dir,
    )  # fmt: skip


def result(data, logits_V, mesh="data:8"):
    return evaluate(
        jax.jit(make_eval_step(Table())),
        {
            "params": {"head": {"logits": jnp.asarray(logits_V, jnp.float32)}},
            "channels": {},
        },
        plan=data.heldout,
        n_bytes=data.heldout_bytes,
        mesh=make_mesh(mesh),
    )


@pytest.mark.parametrize("mesh", ["data:8", "data:1"])
def test_a_uniform_model_needs_log2_v_bits_a_token(data, mesh):
    found = result(data, np.zeros(257), mesh)
    tokens = data.heldout_tokens
    assert found.tokens == tokens
    expected = math.log2(257) * tokens / data.heldout_bytes
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-6)
    assert found.perplexity == pytest.approx(257, rel=1e-5)


def test_every_byte_and_every_boundary_is_predicted_once(data):
    texts = [text.encode() for text in data.corpus.heldout]
    counts = np.bincount(list(b"".join(texts)), minlength=257).astype(float)
    counts[256] = len(texts)
    assert counts.sum() == data.heldout_tokens
    logits_V = np.linspace(-1, 1, 257)
    log_p_V = logits_V - np.log(np.exp(logits_V).sum())
    found = result(data, logits_V)
    expected = -(counts * log_p_V).sum() / counts.sum()
    assert found.loss == pytest.approx(expected, rel=1e-5)


class Bigrams(nn.Module):
    """A model whose logits depend on the last token alone."""

    def setup(self):
        self.head = BigramTable()

    def final_states(self, tokens_BT, *, segments_BT, positions_BT):
        return tokens_BT[..., None].astype(jnp.float32)

    def unembed(self, states_BTD):
        return self.head()[states_BTD[..., 0].astype(jnp.int32)]


class BigramTable(nn.Module):
    """A parameter."""

    @nn.compact
    def __call__(self):
        return self.param("logits", nn.initializers.zeros, (257, 257))


def score_bigrams(data, table_VV, *, top_k=3):
    return score(
        jax.jit(make_score_step(Bigrams(), top_k=top_k)),
        {"params": {"head": {"logits": jnp.asarray(table_VV)}}, "channels": {}},
        plan=data.heldout,
        top_k=top_k,
        mesh=make_mesh("data:8"),
    )


def test_scores_are_those_of_all_tokens_at_once(data):
    table_VV = 4 * jax.random.normal(jax.random.key(0), (257, 257))
    table_VV = table_VV.at[ord("e"), ord(" ")].set(9.0)
    found = score_bigrams(data, table_VV)
    batches = [data.heldout.batch_at(i) for i in range(data.heldout.n_batches)]
    tokens, targets, weights = (
        np.concatenate([getattr(batch, name).ravel() for batch in batches])
        for name in ("tokens_BT", "targets_BT", "weights_BT")
    )
    whole = {"weights": weights}
    logits_NV = table_VV[tokens]
    assert found.accuracy == pytest.approx(
        float(metrics.accuracy(logits_NV, targets, **whole)), rel=1e-5
    )
    assert found.top_k_accuracy == pytest.approx(
        float(metrics.top_k_accuracy(logits_NV, targets, k=3, **whole)), rel=1e-5
    )
    assert found.calibration_error == pytest.approx(
        float(metrics.expected_calibration_error(logits_NV, targets, **whole)), rel=1e-5
    )
    assert 0 < found.accuracy < found.top_k_accuracy < 1 and found.top_k == 3
    assert found.tokens == data.heldout_tokens == weights.sum()


def test_a_model_that_diverged_has_no_scores(data):
    found = score_bigrams(data, np.full((257, 257), np.nan, np.float32))
    assert all(map(math.isnan, (found.loss, found.accuracy, found.calibration_error)))
