"""Blocked attention for CPUs, with a hand-written gradient.

    scores = q k' / sqrt(K) + bias;  lse = logsumexp(scores);  y = exp(scores - lse) v

Blocks are small enough for CPU caches. The backward pass receives q, k, v, lse, and y
in float32, and recomputes the probabilities from them without a maximum, a sum or a
division (Dao et al., FlashAttention, 2022, arXiv 2205.14135, algorithms 1 and 4). With
g the gradient of y and d = sum_k g_k y_k of each query:

    dscores = exp(scores - lse) (g v' - d) / sqrt(K);  dq = dscores k,  dk = dscores' q

The forward pass iterates over blocks of queries and skips the keys that are in the
future of the whole block. The backward pass iterates over blocks of keys and skips the
queries that are in the past of the whole block. It computes the scores transposed: four
of the five products then contract the last axis of their left operand, the layout that
XLA's CPU kernels are fastest with.

Cost per row and head of T positions, with four blocks: 5/8 of the 4 T^2 K forward FLOPs
of the full square, and 5/8 of the 10 T^2 K backward FLOPs.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import ATTENDED
from lostjax.typing import Array, Float

BLOCKS = 4
"""Number of blocks into which the queries, or the keys, are split."""

LEAST = 32
"""Minimum number of positions per block."""


def blocked_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Compute attention in blocks; equals `plain_attention` up to rounding.

    Args:
        q_BTHK: rotated queries (B, T, H, K).
        k_BTHK: rotated keys (B, T, H, K).
        v_BTHK: values (B, T, H, K).
        seen: mask information; its bias must be causal.

    Returns:
        Weighted sums of values (B, T, H, K), in the dtype of q. Only reverse-mode
        derivatives are defined.
    """
    # (B, H) leading: both axes become batch axes of every product, without a transpose.
    heads_first = (x.swapaxes(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    y_BHTK: jax.Array = _attend(*heads_first, seen.bias)
    return y_BHTK.swapaxes(1, 2)


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    return _forward(q, k, v, bias)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    gathered, sums = [], []
    for start, end in _blocks(q.shape[2]):
        scores = _scores(q[:, :, start:end], k[:, :, :end])
        scores += bias[:, :, start:end, :end]
        # Subtracting the maximum keeps exp from overflowing.
        most = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - most)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        y = _product("bhts,bhsk->bhtk", weights.astype(v.dtype), v[:, :, :end])
        # Divide after the product: T K divisions instead of T^2.
        gathered.append(y / total)
        sums.append(jnp.squeeze(most + jnp.log(total), axis=-1))
    kept = (q, k, v, jnp.concatenate(gathered, 2), jnp.concatenate(sums, 2))
    # Without these names a remat policy would run the forward pass again.
    q, k, v, y, lse_BHT = (checkpoint_name(x, ATTENDED) for x in kept)
    return y.astype(q.dtype), (q, k, v, bias, y, lse_BHT)


def _backward(
    kept: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, bias, y, lse_BHT = kept
    # sum_s p_s dp_s = g . y: the softmax gradient needs no reduction over keys.
    inner_BHT = jnp.sum(g.astype(jnp.float32) * y, axis=-1)
    blocks = list(_blocks(q.shape[2]))
    by_q: list[Any] = [0.0] * len(blocks)
    by_k, by_v = [], []
    for i, (start, end) in enumerate(blocks):
        later = slice(start, None)
        queries, arrived = q[:, :, later], g[:, :, later]
        # Transposed scores (key, query): see the module docstring.
        scores = _scores(k[:, :, start:end], queries)
        scores += bias[:, :, later, start:end].swapaxes(2, 3)
        # exp(scores - lse) are the probabilities: no maximum, sum or division.
        weights = jnp.exp(scores - lse_BHT[:, :, None, later])
        by_weights = _product("bhsk,bhtk->bhst", v[:, :, start:end], arrived)
        by_scores = weights * (by_weights - inner_BHT[:, :, None, later])
        # dv takes the rounded probabilities, as the forward pass did.
        by_scores *= q.shape[3] ** -0.5
        by_v.append(_product("bhst,bhtk->bhsk", weights.astype(v.dtype), arrived))
        by_k.append(_product("bhst,bhtk->bhsk", by_scores, queries))
        part = _product("bhst,bhsk->bhtk", by_scores, k[:, :, start:end])
        for j, (left, right) in enumerate(blocks[i:], i):
            # A block of keys contributes to its own and all later blocks of queries.
            by_q[j] += part[:, :, left - start : right - start]
    made = (jnp.concatenate(parts, axis=2) for parts in (by_q, by_k, by_v))
    # The bias is built from integers and needs no gradient.
    dq, dk, dv = (dx.astype(x.dtype) for dx, x in zip(made, (q, k, v), strict=True))
    return dq, dk, dv, None


_attend.defvjp(_forward, _backward)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Return the start and end of every block; the last block may be shorter."""
    size = max(LEAST, math.ceil(length / BLOCKS))
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _scores(left_BHTK: jax.Array, right_BHSK: jax.Array) -> jax.Array:
    # A Python float is weakly typed: it does not promote the dtype of the scores.
    scale = float(left_BHTK.shape[-1] ** -0.5)
    return scale * _product("bhtk,bhsk->bhts", left_BHTK, right_BHSK)


def _product(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    # Accumulate in float32: sums over T or K terms lose digits in bfloat16.
    made: jax.Array = jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
    return made
