"""XLA's attention as CPUs like it: in blocks that caches hold, with its own gradient.

    scores = q k' / sqrt(K) + bias;  lse = logsumexp(scores);  y = exp(scores - lse) v

Kept for the backward pass are q, k, v, lse, and y in float32; the probabilities are
made again from them, without a maximum, a sum or a division (Dao et al.,
FlashAttention, 2022, arXiv 2205.14135, algorithms 1 and 4). With g the gradient of y
and d = sum_k g_k y_k of each query:

    dscores = exp(scores - lse) (g v' - d) / sqrt(K);  dq = dscores k,  dk = dscores' q

Forward it takes some queries at a time, with the keys that are not all in their
future; backward some keys, with the queries not all in their past, and has the scores
transposed: four of the five products then contract the last axis of their left side,
which XLA's CPU kernels want.

Cost for each row and head of T positions: with four blocks 5/8 of the 4 T^2 K FLOPs of
a whole square forward, and of 10 T^2 K backward.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lostjax.nn.attention.attention import ATTENDED, Seen
from lostjax.typing import Array, Float

BLOCKS = 4
"""Into how many blocks the queries, or the keys, are cut."""

LEAST = 32
"""Fewest positions of a block."""


def blocked_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Attend as `plain_attention` does, which it equals but for rounding.

    Args:
        q_BTHK: queries, rotated.
        k_BTHK: keys, rotated.
        v_BTHK: values.
        seen: what each query sees; its bias hides the future.

    Returns:
        What the queries gather (B, T, H, K), in q's dtype. It has gradients of reverse
        mode alone.
    """
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
        most = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - most)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        y = _product("bhts,bhsk->bhtk", weights.astype(v.dtype), v[:, :, :end])
        gathered.append(y / total)
        sums.append(jnp.squeeze(most + jnp.log(total), axis=-1))
    kept = (q, k, v, jnp.concatenate(gathered, 2), jnp.concatenate(sums, 2))
    q, k, v, y, lse_BHT = (checkpoint_name(x, ATTENDED) for x in kept)
    return y.astype(q.dtype), (q, k, v, bias, y, lse_BHT)


def _backward(
    kept: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, bias, y, lse_BHT = kept
    inner_BHT = jnp.sum(g.astype(jnp.float32) * y, axis=-1)
    blocks = list(_blocks(q.shape[2]))
    by_q: list[Any] = [0.0] * len(blocks)
    by_k, by_v = [], []
    for i, (start, end) in enumerate(blocks):
        later = slice(start, None)
        queries, arrived = q[:, :, later], g[:, :, later]
        scores = _scores(k[:, :, start:end], queries)
        scores += bias[:, :, later, start:end].swapaxes(2, 3)
        weights = jnp.exp(scores - lse_BHT[:, :, None, later])
        by_weights = _product("bhsk,bhtk->bhst", v[:, :, start:end], arrived)
        by_scores = weights * (by_weights - inner_BHT[:, :, None, later])
        by_scores *= q.shape[3] ** -0.5
        by_v.append(_product("bhst,bhtk->bhsk", weights.astype(v.dtype), arrived))
        by_k.append(_product("bhst,bhtk->bhsk", by_scores, queries))
        part = _product("bhst,bhsk->bhtk", by_scores, k[:, :, start:end])
        for j, (left, right) in enumerate(blocks[i:], i):
            by_q[j] += part[:, :, left - start : right - start]
    made = (jnp.concatenate(parts, axis=2) for parts in (by_q, by_k, by_v))
    dq, dk, dv = (dx.astype(x.dtype) for dx, x in zip(made, (q, k, v), strict=True))
    return dq, dk, dv, None


_attend.defvjp(_forward, _backward)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Give where each block starts and ends; the last may be shorter."""
    size = max(LEAST, math.ceil(length / BLOCKS))
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _scores(left_BHTK: jax.Array, right_BHSK: jax.Array) -> jax.Array:
    scale = float(left_BHTK.shape[-1] ** -0.5)
    return scale * _product("bhtk,bhsk->bhts", left_BHTK, right_BHSK)


def _product(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
    made: jax.Array = jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)
    return made
