"""Rotation, hiding and the attention built on them, against plain numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import Dense, Ungrouped, causal_bias, rotary_angles, rotate
from lostjax.nn.attention.attention import Attention
from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import plain_attention
from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program

B, T, H, K = 2, 7, 3, 8


def test_rotation_is_multiplication_by_a_complex_number():
    x_BTHK = np.random.default_rng(0).normal(size=(B, T, H, K)).astype(np.float32)
    positions_BT = np.array([[0, 1, 2, 3, 0, 1, 2], [5, 6, 7, 8, 9, 10, 11]])
    rotation = rotary_angles(jnp.asarray(positions_BT), d_head=K, theta=100.0)
    got = rotate(jnp.asarray(x_BTHK), rotation)

    frequencies = 100.0 ** (-np.arange(0, K, 2) / K)
    turn = np.exp(1j * positions_BT[:, :, None, None] * frequencies)
    z = (x_BTHK[..., : K // 2] + 1j * x_BTHK[..., K // 2 :]) * turn
    np.testing.assert_allclose(
        got, np.concatenate([z.real, z.imag], axis=-1), atol=2e-6
    )


def test_rotation_keeps_the_dtype_and_computes_in_float32():
    x_BTHK = jax.random.normal(jax.random.key(0), (1, T, H, K))
    rotation = rotary_angles(jnp.arange(1000, 1000 + T)[None], d_head=K)
    half = rotate(x_BTHK.astype(jnp.bfloat16), rotation)
    assert half.dtype == jnp.bfloat16
    exact = rotate(x_BTHK.astype(jnp.bfloat16).astype(jnp.float32), rotation)
    # One rounding at the end, none before: the nearest bfloat16.
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


def test_bias_hides_the_future_and_other_documents():
    segments_BT = jnp.array([[1, 1, 2, 0, 0]])
    seen = causal_bias(5, segments_BT=segments_BT)[0, 0] == 0
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(seen, np.array(expected, bool))
    alone = causal_bias(5)
    assert alone.shape == (1, 1, 5, 5)
    np.testing.assert_array_equal(alone[0, 0] == 0, np.tril(np.ones((5, 5), bool)))


def test_attention_equals_a_loop_over_queries():
    D = H * K
    attention = Attention(n_heads=H, linear=Ungrouped(Dense))
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, D))
    segments_BT = jnp.array([[1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 3, 3]])
    rotation = rotary_angles(jnp.arange(T)[None], d_head=K)
    seen = Seen(causal_bias(T, segments_BT=segments_BT), segments_BT)
    inputs = (x_BTD, rotation, seen, None)
    variables = jax.jit(attention.init)(jax.random.key(1), *inputs)
    # Scores of order one, or every attention would be uniform.
    variables = jax.tree.map(lambda kernel: 10 * kernel, variables)
    got = jax.jit(attention.apply)(variables, *inputs)

    w = {name: variables["params"][name]["kernel"] for name in "qkvo"}
    heads = (B, T, H, K)
    q = np.asarray(rotate((x_BTD @ w["q"]).reshape(heads), rotation))
    k = np.asarray(rotate((x_BTD @ w["k"]).reshape(heads), rotation))
    v = np.asarray((x_BTD @ w["v"]).reshape(heads))
    y = np.zeros(heads)
    for b, t, h in np.ndindex(B, T, H):
        seen = [s for s in range(t + 1) if segments_BT[b, s] == segments_BT[b, t]]
        weights = np.exp([q[b, t, h] @ k[b, s, h] / np.sqrt(K) for s in seen])
        y[b, t, h] = weights @ v[b, seen, h] / weights.sum()
    expected = y.reshape(B, T, D) @ w["o"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d_head", [0, 7])
def test_odd_heads_are_refused(d_head):
    with pytest.raises(ValueError, match=f"d_head={d_head}"):
        rotary_angles(jnp.arange(T)[None], d_head=d_head)


@pytest.mark.parametrize("length", [130, 512, 514])
def test_parts_of_the_queries_attend_as_all_at_once(length):
    rng = np.random.default_rng(0)
    q, k, v, g = np.float32(rng.normal(size=(4, B, length, H, K)))
    segments_BT = jnp.asarray(np.cumsum(rng.random((B, length)) < 0.05, axis=1))
    bias = jax.jit(causal_bias, static_argnums=0)(length, segments_BT=segments_BT)
    seen = Seen(bias, segments_BT)

    def at_once(q, k, v, seen):
        return jax.nn.dot_product_attention(q, k, v, bias=seen.bias)

    @partial(jax.jit, static_argnums=0)
    def train(attend, q, k, v, g):
        y, pull = jax.vjp(lambda q, k, v: attend(q, k, v, seen), q, k, v)
        return y, *pull(g)

    both = (train(attend, q, k, v, g) for attend in (plain_attention, at_once))
    for ours, meant in zip(*both, strict=True):
        np.testing.assert_allclose(ours, meant, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "length, share", [(256, 1), (514, 1), (512, 5 / 8), (640, 5 / 8)]
)
def test_parts_leave_out_what_is_in_the_future(length, share):
    heads = jax.ShapeDtypeStruct((B, length, H, K), jnp.float32)
    seen = Seen(causal_bias(length), None)
    compiled = jax.jit(plain_attention).lower(heads, heads, heads, seen).compile()
    one = {"data": 1}
    flops = count_costs(parse_program(compiled.as_text()), axes=one).flops
    assert flops == share * 4 * B * H * length**2 * K
