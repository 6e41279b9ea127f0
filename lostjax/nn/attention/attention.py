"""Causal self-attention with rotary positions, document boundaries and a KV cache.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s     over s <= t in t's document

q and k are first rotated by their position (RoPE: Su et al., RoFormer, 2021, arXiv
2104.09864), in LLaMA's half-split layout: component i of a head turns together with
component i + K/2. A row may hold several packed documents, told apart by segment ids.
The softmax is `jax.nn.dot_product_attention`'s, in float32. What means the same may
take its place: kernels (`lostjax.nn.kernels.attention`), or on a CPU
`lostjax.nn.attention.blocked`.

Cost of XLA's form per token and layer beside the four matrices: 4 T D FLOPs forward
for a whole square of scores, and H T saved probabilities; in parts 5/8 of both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lostjax.nn.linear.projection import MakeLinear, project
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Array, Float, Int

ATTENDED = "attended"
"""The `checkpoint_name` of what attention puts out, before the matrix o. Every form
gives it to its output, splash attention also to its sums of exponentials, blocked
attention to all that its backward pass wants. cuDNN's have none: a policy that keeps
the output alone has its forward pass run again."""

HIDDEN = -1e30
"""Added to a score that must not count."""

PARTS = 4
"""Into how many parts of the queries XLA's form is cut: five eighths of the square of
scores are left."""

LEAST = 128
"""Fewest queries of such a part: slices of keys and values cost what scores do. At 256
tokens a step of 7b would take 8 to 9 % longer on v5e, by its compiled program."""

MAX_LOGIT = "max_logit"
"""What attention sows into `intermediates` where that collection is mutable: the size
of its largest score (before the softmax) that counts."""


class Rotation(NamedTuple):
    """What rotates queries and keys at their positions; shared by all layers."""

    cos_BTK: Array
    """Cosines, (B or 1, T, K/2), float32."""
    sin_BTK: Array
    """Sines, same shape."""


class Seen(NamedTuple):
    """What every query may see, said twice: kernels hide scores by documents."""

    bias: Array
    """Added to the scores, see `causal_bias`; (B or 1, 1, T query, S key), float32."""
    segments_BT: Array | None
    """Document ids within each row; None for one document a row."""


Attend = Callable[[Array, Array, Array, Seen], jax.Array]
"""`attend(q_BTHK, k_BTHK, v_BTHK, seen)`: softmax_s(q_t . k_s / sqrt(K)) v_s over what
is seen, (B, T, H, K), in q's dtype."""


def plain_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Attend by XLA's own products: what every other form means.

    A part of the queries at a time, to the keys that are not all in its future.
    """
    T = q_BTHK.shape[1]
    size = T if T % PARTS or PARTS * LEAST > T else T // PARTS
    parts = [
        jax.nn.dot_product_attention(
            q_BTHK[:, start:end],
            k_BTHK[:, :end],
            v_BTHK[:, :end],
            bias=seen.bias[:, :, start:end, :end],
        )
        for start, end in ((start, start + size) for start in range(0, T, size))
    ]
    named: jax.Array = checkpoint_name(jnp.concatenate(parts, axis=1), ATTENDED)
    return named


def _attend_to_cache(
    q_BTHK: Array, k_BSHK: Array, v_BSHK: Array, seen: Seen
) -> jax.Array:
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, bias=seen.bias)


def rotary_angles(
    positions_BT: Int[Array, "B T"], *, d_head: int, theta: float = 1e4
) -> Rotation:
    """Compute the sines and cosines that rotate heads at the given positions.

    Args:
        positions_BT: positions in their documents, from 0; B may be 1 to share them.
        d_head: head width K, even.
        theta: base of the geometric progression of wavelengths, > 0.

    Returns:
        A `Rotation` of (B, T, K/2) arrays; pair i turns by positions * theta^(-2i/K).
    """
    if d_head < 2 or d_head % 2:
        raise ValueError(f"d_head={d_head}: must be even, for rotary positions")
    wavelengths_K = theta ** (jnp.arange(0, d_head, 2, dtype=jnp.float32) / d_head)
    angles_BTK = positions_BT[..., None].astype(jnp.float32) / wavelengths_K
    return Rotation(jnp.cos(angles_BTK), jnp.sin(angles_BTK))


def rotate(x_BTHK: Float[Array, "B T H K"], rotation: Rotation) -> Array:
    """Rotate the pairs (i, i + K/2) of every head by their position's angles.

    Args:
        x_BTHK: queries or keys.
        rotation: from `rotary_angles`, for the same T and K.

    Returns:
        The rotated heads, (B, T, H, K), in x's dtype; computed in float32.
    """
    cos, sin = rotation.cos_BTK[:, :, None], rotation.sin_BTK[:, :, None]
    left, right = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [left * cos - right * sin, right * cos + left * sin], axis=-1
    )
    return turned.astype(x_BTHK.dtype)


def causal_bias(
    length: int, *, segments_BT: Int[Array, "B T"] | None = None
) -> Float[Array, "B 1 T T"]:
    """Make what is added to the scores to hide the future and other documents.

    A bias, not a mask: jax.nn.dot_product_attention writes a mask out at the size of
    the scores, which costs a quarter of its time on a CPU. Hidden scores are so low
    that their probability is exactly 0, and so is its gradient.

    Args:
        length: T.
        segments_BT: document ids within each row; None for one document a row. Padding
            (0) sees earlier padding: no query is left without a key.

    Returns:
        0 where query t sees key s, else -1e30; (B or 1, 1, T query, T key), float32.
    """
    seen_BTS = jnp.tril(jnp.ones((1, length, length), bool))
    if segments_BT is not None:
        seen_BTS &= segments_BT[:, :, None] == segments_BT[:, None, :]
    return _as_bias(seen_BTS)[:, None]


def _as_bias(seen: Array) -> Array:
    return jnp.where(seen, 0.0, HIDDEN).astype(jnp.float32)


def _largest_score(q_BTHK: Array, k_BSHK: Array, bias: Array) -> Array:
    """Find the size of the largest score that counts; a second product of q and k."""
    q_BTHK, k_BSHK = jax.lax.stop_gradient((q_BTHK, k_BSHK))
    scores_BHTS = jnp.abs(
        jnp.einsum(
            "BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32
        )
    )
    scores_BHTS = jnp.where(bias > HIDDEN / 2, scores_BHTS, 0.0)
    return jnp.max(scores_BHTS) / jnp.sqrt(q_BTHK.shape[-1])


class Attention(nn.Module):
    """Multi-head causal self-attention over linear maps of any kind."""

    n_heads: int
    linear: MakeLinear
    qk_norm: bool = False
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32
    channel_groups: int = 1
    cache_length: int = 0
    attend: Attend = plain_attention

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        rotation: Rotation,
        seen: Seen | None,
        start: Int[Array, ""] | None,
    ) -> Float[Array, "B T D"]:
        """Let every position gather from the earlier ones of its document.

        Args:
            x_BTD: normed residual stream.
            rotation: of the positions of x.
            seen: by each position of x; None with a cache, which sees by itself.
            start: with a cache, how many positions it already holds; else None.

        Returns:
            What to add to the residual stream.
        """
        B, T, D = x_BTD.shape
        inputs = [
            self.linear(features=D, name=name, channel_groups=1, dtype=self.dtype)
            for name in ("q", "k", "v")
        ]
        heads = (B, T, self.n_heads, D // self.n_heads)
        q, k, v = (y.reshape(heads) for y in project(inputs, x_BTD.reshape(-1, D)))
        if self.qk_norm:
            q = RMSNorm(self.norm_eps, dtype=self.dtype, name="q_norm")(q)
            k = RMSNorm(self.norm_eps, dtype=self.dtype, name="k_norm")(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        attend: Attend = self.attend
        if start is not None:
            k, v, seen = self._remember(k, v, start)
            attend = _attend_to_cache
        assert seen is not None
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", MAX_LOGIT, _largest_score(q, k, seen.bias))
        y_BTHK = attend(q, k, v, seen)
        output = self.linear(
            features=D, name="o", channel_groups=self.channel_groups, dtype=self.dtype
        )
        return output(y_BTHK.reshape(-1, D)).reshape(B, T, D)

    def _remember(
        self, k_BTHK: Array, v_BTHK: Array, start: Array
    ) -> tuple[Array, Array, Seen]:
        """Write keys and values into the cache; return all of it, and what is seen."""
        B, T, H, K = k_BTHK.shape
        shape = (B, self.cache_length, H, K)
        keys = self.variable("cache", "keys", jnp.zeros, shape, k_BTHK.dtype)
        values = self.variable("cache", "values", jnp.zeros, shape, v_BTHK.dtype)
        at = (0, start, 0, 0)
        keys.value = jax.lax.dynamic_update_slice(keys.value, k_BTHK, at)
        values.value = jax.lax.dynamic_update_slice(values.value, v_BTHK, at)
        seen_TS = jnp.arange(self.cache_length) <= start + jnp.arange(T)[:, None]
        return keys.value, values.value, Seen(_as_bias(seen_TS)[None, None], None)
