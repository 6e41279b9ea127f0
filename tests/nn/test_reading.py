"""Attention weights and embedded rows: the model computes the same with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import (
    Dense,
    LowRankSparse,
    Transformer,
    Ungrouped,
    attention_maps,
    embed_tokens,
    embedded_logits,
)

TOKENS_BT = jnp.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])


def make(linear, **options):
    model = Transformer(
        vocab_size=11, d_model=16, n_layers=2, n_heads=2, d_hidden=24, linear=linear,
        **options,
    )  # fmt: skip
    variables = model.init(jax.random.key(0), TOKENS_BT)
    params = jax.tree.map(lambda w: 3 * w, variables["params"])
    return model, {**variables, "params": params}


@pytest.fixture(scope="module")
def dense():
    return make(Ungrouped(Dense), qk_norm=True)


def test_weights_are_those_that_attention_uses(dense):
    model, variables = dense
    maps_BLHTS = attention_maps(model, variables, tokens_BT=TOKENS_BT)
    assert maps_BLHTS.shape == (2, 2, 2, 7, 7)
    np.testing.assert_allclose(maps_BLHTS.sum(-1), 1, rtol=1e-5)
    assert (np.triu(np.ones((7, 7)), 1) * maps_BLHTS == 0).all()
    # The model with these weights in the place of its own attention is the same model.
    layers = iter(range(4))

    def attend(q, k, v, seen):
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / jnp.sqrt(8.0) + seen.bias
        seen_maps.append(jax.nn.softmax(scores))
        return jnp.einsum("bhts,bshk->bthk", maps_BLHTS[:, next(layers)], v)

    seen_maps = []
    with jax.disable_jit():
        logits = model.clone(attend=attend).apply(variables, TOKENS_BT)
    want = model.apply(variables, TOKENS_BT)
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        np.swapaxes(seen_maps, 0, 1), maps_BLHTS, rtol=1e-4, atol=1e-6
    )


def test_maps_are_no_variables(dense):
    model, variables = dense
    assert set(variables) == {"params"}
    assert set(model.init(jax.random.key(0), TOKENS_BT)) == {"params"}


def test_embedded_tokens_have_the_logits_of_the_tokens():
    model, variables = make(lambda **kw: LowRankSparse(rank=4, delta=0.25, **kw))
    want_BTV = model.apply(variables, TOKENS_BT)
    x_TD = embed_tokens(variables, TOKENS_BT[1])
    for at in (-1, 3):
        got_V = embedded_logits(model, variables, x_TD=x_TD, at=at)
        np.testing.assert_allclose(got_V, want_BTV[1, at], rtol=1e-5, atol=1e-5)
    moved_V = embedded_logits(model, variables, x_TD=x_TD.at[0].mul(-1.0))
    assert abs(moved_V - want_BTV[1, -1]).max() > 1e-3


def test_later_embeddings_change_nothing(dense):
    model, variables = dense
    x_TD = embed_tokens(variables, TOKENS_BT[0])
    slope_TD = jax.grad(
        lambda x: embedded_logits(model, variables, x_TD=x, at=3).sum()
    )(x_TD)
    assert (slope_TD[4:] == 0).all() and (jnp.abs(slope_TD[:4]).max(1) > 0).all()
