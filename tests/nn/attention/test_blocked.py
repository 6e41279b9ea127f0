"""Attention in blocks against JAX's own, and what it costs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import causal_bias, save_products
from lostjax.nn.attention.blocked import blocked_attention
from lostjax.nn.attention.mask import Seen
from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program

B, H, K = 2, 3, 8


def at_once(q, k, v, seen):
    return jax.nn.dot_product_attention(q, k, v, bias=seen.bias)


def make(length, *, dtype=jnp.float32):
    """Heads of some size, a gradient of what they gather, and packed documents."""
    rng = np.random.default_rng(0)
    heads = 2 * rng.normal(size=(4, B, length, H, K))
    segments_BT = jnp.asarray(np.cumsum(rng.random((B, length)) < 0.05, axis=1))
    bias = jax.jit(causal_bias, static_argnums=0)(length, segments_BT=segments_BT)
    return *(jnp.asarray(x, dtype) for x in heads), Seen(bias, segments_BT)


@partial(jax.jit, static_argnums=0)
def train(attend, q, k, v, g, seen):
    y, pull = jax.vjp(lambda q, k, v: attend(q, k, v, seen), q, k, v)
    return y, *pull(g)


def also(length):
    """A length like one beside it: `make slow` runs it."""
    return pytest.param(length, marks=pytest.mark.slow)


@pytest.mark.parametrize("length", [1, 64, 97, 200, also(31), also(130)])
def test_blocks_attend_as_all_at_once(length):
    given = make(length)
    for one, other in zip(
        train(blocked_attention, *given), train(at_once, *given), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def test_one_document_a_row_needs_one_bias_for_all():
    q, k, v, g, _ = make(96)
    seen = Seen(causal_bias(96), None)
    assert seen.bias.shape[0] == 1
    for one, other in zip(
        train(blocked_attention, q, k, v, g, seen),
        train(at_once, q, k, v, g, seen),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def test_bfloat16_is_as_near_to_float32_as_all_at_once_is():
    given = make(130, dtype=jnp.bfloat16)
    exact = train(at_once, *jax.tree.map(lambda x: x.astype(jnp.float32), given))
    ours, theirs = train(blocked_attention, *given), train(at_once, *given)
    for one, other, meant in zip(ours, theirs, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        errors = [np.linalg.norm(np.float32(x) - meant) for x in (one, other)]
        assert errors[0] < 1.1 * errors[1]


def test_large_scores_overflow_nowhere():
    q, k, v, g, seen = make(64)
    for one in train(blocked_attention, 1e4 * q, k, v, g, seen):
        assert np.all(np.isfinite(one))


def count_flops(function, *shapes):
    text = jax.jit(function).lower(*shapes).compile().as_text()
    return count_costs(parse_program(text), axes={"data": 1}).flops


@pytest.mark.parametrize("length, share", [(32, 1), (64, 3 / 4), (256, 5 / 8)])
def test_blocks_leave_out_what_is_in_the_future(length, share):
    heads = jax.ShapeDtypeStruct((B, length, H, K), jnp.float32)
    seen = Seen(causal_bias(length), None)
    square = 2 * B * H * length**2 * K
    assert count_flops(blocked_attention, heads, heads, heads, seen) == (
        share * 2 * square
    )
    pulled = count_flops(
        lambda *heads: train(blocked_attention, *heads, seen)[1:], *[heads] * 4
    )
    assert pulled == share * 7 * square


def test_where_products_are_kept_nothing_of_the_forward_pass_is_done_again():
    length, layers = 64, 3
    heads = jax.ShapeDtypeStruct((B, length, H, K), jnp.float32)
    seen = Seen(causal_bias(length), None)

    def gradient(policy):
        def layer(x, _):
            return jnp.sin(blocked_attention(x, 2 * x, 3 * x, seen)), None

        layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)

        def total(x):
            return jnp.sum(jax.lax.scan(layer, x, None, length=layers)[0])

        return jax.grad(total)

    product = layers * 3 / 4 * 2 * B * H * length**2 * K
    assert count_flops(gradient(save_products), heads) == 7 * product
    nothing = jax.checkpoint_policies.nothing_saveable
    assert count_flops(gradient(nothing), heads) == 9 * product
