"""Causal self-attention with rotary positions, document boundaries and a KV cache.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s     over s <= t in t's document

q and k are first rotated by their position (RoPE: Su et al., RoFormer, 2021, arXiv
2104.09864), in LLaMA's half-split layout: component i of a head is paired with
component i + K/2. A row can hold several packed documents, which segment ids tell
apart. The softmax is that of `jax.nn.dot_product_attention`, in float32. Equivalent
implementations can replace it: kernels (`lostjax.nn.kernels.attention`), or
`lostjax.nn.attention.blocked` on CPUs.

Cost per token and layer, in addition to the four matrices: 4 T D forward FLOPs for the
full square of scores, and H T saved probabilities. Splitting the queries into parts
reduces both to 5/8.
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
"""`checkpoint_name` of the output of attention, before the matrix o. All
implementations label their output with it; splash attention also labels its sums of
exponentials, and blocked attention everything that its backward pass needs. The sums of
cuDNN attention have no name: a policy that saves only the output recomputes its forward
pass."""

HIDDEN = -1e30
"""Value added to masked scores. Finite, because -inf - -inf would be NaN."""

PARTS = 4
"""Number of parts into which `plain_attention` splits the queries: five eighths of the
square of scores remain."""

LEAST = 128
"""Minimum number of queries per part: slicing keys and values costs as much as the
scores that it saves. Splitting rows of 256 tokens would make a step of 7b 8 to 9 %
slower on v5e, as estimated from its compiled program."""

MAX_LOGIT = "max_logit"
"""Name under which attention sows the absolute value of its largest unmasked score,
before the softmax, if the collection `intermediates` is mutable."""


class Rotation(NamedTuple):
    """Rotary cosines and sines of all positions, shared by all layers."""

    cos_BTK: Array
    """Cosines (B or 1, T, K/2), float32."""
    sin_BTK: Array
    """Sines (B or 1, T, K/2), float32."""


class Seen(NamedTuple):
    """Mask information in two forms: XLA adds the bias, kernels use the segment ids."""

    bias: Array
    """Bias of the scores, see `causal_bias`; (B or 1, 1, T query, S key), float32."""
    segments_BT: Array | None
    """Document ids within each row (B, T); None if each row is one document."""


Attend = Callable[[Array, Array, Array, Seen], jax.Array]
"""Signature of an attention implementation: `attend(q_BTHK, k_BTHK, v_BTHK, seen)`
returns softmax_s(q_t . k_s / sqrt(K)) v_s over the unmasked keys, (B, T, H, K), in the
dtype of q."""


def plain_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Compute attention by XLA's products; the reference for all implementations.

    The queries are split into parts, and each part skips the keys that are in the
    future of all its queries.

    Args:
        q_BTHK: rotated queries (B, T, H, K).
        k_BTHK: rotated keys (B, T, H, K).
        v_BTHK: values (B, T, H, K).
        seen: mask information.

    Returns:
        Weighted sums of values (B, T, H, K), in the dtype of q.
    """
    T = q_BTHK.shape[1]
    # Rows that do not split evenly, or into parts that are too short, are one part.
    size = T if T % PARTS or PARTS * LEAST > T else T // PARTS
    parts = [
        jax.nn.dot_product_attention(
            # Static slices: the compiled products omit keys that the bias would mask.
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
        A `Rotation` of (B, T, K/2) arrays; the angle of pair i is
        positions * theta^(-2i/K).

    Raises:
        ValueError: if `d_head` is odd or less than 2.
    """
    if d_head < 2 or d_head % 2:
        raise ValueError(f"d_head={d_head}: must be even and > 0, for rotary positions")
    wavelengths_K = theta ** (jnp.arange(0, d_head, 2, dtype=jnp.float32) / d_head)
    # Angles in float32: bfloat16 does not represent all integers above 256.
    angles_BTK = positions_BT[..., None].astype(jnp.float32) / wavelengths_K
    return Rotation(jnp.cos(angles_BTK), jnp.sin(angles_BTK))


def rotate(x_BTHK: Float[Array, "B T H K"], rotation: Rotation) -> Array:
    """Rotate the pairs (i, i + K/2) of every head by their position's angles.

    Args:
        x_BTHK: queries or keys (B, T, H, K).
        rotation: output of `rotary_angles` for the same T and K.

    Returns:
        The rotated heads (B, T, H, K), in the dtype of x; computed in float32.
    """
    cos, sin = rotation.cos_BTK[:, :, None], rotation.sin_BTK[:, :, None]
    left, right = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    # Halves, not even and odd entries: the layout of LLaMA's published weights.
    turned = jnp.concatenate(
        [left * cos - right * sin, right * cos + left * sin], axis=-1
    )
    return turned.astype(x_BTHK.dtype)


def causal_bias(
    length: int, *, segments_BT: Int[Array, "B T"] | None = None
) -> Float[Array, "B 1 T T"]:
    """Build the attention bias that masks the future and other documents.

    `jax.nn.dot_product_attention` receives a bias and not a mask, because it would
    materialise a mask at the size of the scores, which takes a quarter of its time on a
    CPU. Masked scores are so low that their probability and its gradient are exactly 0.

    Args:
        length: tokens per row, T.
        segments_BT: document ids within each row (B, T); None if each row is one
            document. Padding (0) attends to earlier padding, so that every query has at
            least one key.

    Returns:
        Bias (B or 1, 1, T query, T key), float32: 0 if query t attends to key s, -1e30
        otherwise.
    """
    seen_BTS = jnp.tril(jnp.ones((1, length, length), bool))
    if segments_BT is not None:
        seen_BTS &= segments_BT[:, :, None] == segments_BT[:, None, :]
    return _as_bias(seen_BTS)[:, None]


def _as_bias(seen: Array) -> Array:
    return jnp.where(seen, 0.0, HIDDEN).astype(jnp.float32)


def _largest_score(q_BTHK: Array, k_BSHK: Array, bias: Array) -> Array:
    """Return the largest absolute unmasked score; this multiplies q and k again."""
    # A diagnostic only: no gradient may flow from it into the loss.
    q_BTHK, k_BSHK = jax.lax.stop_gradient((q_BTHK, k_BSHK))
    scores_BHTS = jnp.abs(
        jnp.einsum(
            "BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32
        )
    )
    # Masked scores count as 0; half of HIDDEN separates them despite rounding.
    scores_BHTS = jnp.where(bias > HIDDEN / 2, scores_BHTS, 0.0)
    return jnp.max(scores_BHTS) / jnp.sqrt(q_BTHK.shape[-1])


class Attention(nn.Module):
    """Multi-head causal self-attention with configurable linear maps.

    Attributes:
        n_heads: number of heads H; divides the width D.
        linear: factory of the maps q, k, v and o.
        qk_norm: apply RMSNorm to queries and keys, over the head width.
        norm_eps: epsilon of these norms.
        dtype: computation dtype.
        channel_groups: number of channel groups of the map o.
        cache_length: positions of the KV cache; 0 for no cache.
        attend: attention implementation; not used with a KV cache.
    """

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
        """Compute attention of every position over earlier positions of its document.

        Args:
            x_BTD: normalised residual stream (B, T, D).
            rotation: rotary cosines and sines of the positions of x.
            seen: mask information of the positions of x; None with a KV cache, which
                builds its own.
            start: number of positions already in the KV cache; None without a cache.

        Returns:
            The update of the residual stream, (B, T, D).
        """
        B, T, D = x_BTD.shape
        inputs = [
            self.linear(features=D, name=name, channel_groups=1, dtype=self.dtype)
            for name in ("q", "k", "v")
        ]
        heads = (B, T, self.n_heads, D // self.n_heads)
        # Flat rows (B*T, D): XLA's CPU product of a 3-d operand takes twice as long.
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
        # Costs a second product of q and k, so only if a caller asks for it.
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
        """Write keys and values into the cache; return the full cache and its mask."""
        B, T, H, K = k_BTHK.shape
        shape = (B, self.cache_length, H, K)
        keys = self.variable("cache", "keys", jnp.zeros, shape, k_BTHK.dtype)
        values = self.variable("cache", "values", jnp.zeros, shape, v_BTHK.dtype)
        at = (0, start, 0, 0)
        keys.value = jax.lax.dynamic_update_slice(keys.value, k_BTHK, at)
        values.value = jax.lax.dynamic_update_slice(values.value, v_BTHK, at)
        # Unwritten positions lie in the future of every query, so this masks them too.
        seen_TS = jnp.arange(self.cache_length) <= start + jnp.arange(T)[:, None]
        return keys.value, values.value, Seen(_as_bias(seen_TS)[None, None], None)
