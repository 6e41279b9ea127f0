"""Causal self-attention with rotary positions, document boundaries and a KV cache.

    y = o(attend(rotate(q(x)), rotate(k(x)), v(x)))

q, k, v and o are linear maps; queries and keys are rotated by their position
(`attention.rotary`), and optionally normalised before that. `attend` is any
implementation of the softmax over earlier positions of a document, such as
`attention.plain.plain_attention`. With a KV cache, the keys and values of earlier calls
are attended to as well.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.nn.attention.mask import HIDDEN, Seen, as_bias
from lostjax.nn.attention.plain import Attend, plain_attention
from lostjax.nn.attention.rotary import Rotation, rotate
from lostjax.nn.linear.projection import MakeLinear, project
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Array, Float, Int

MAX_LOGIT = "max_logit"
"""Name under which attention sows the absolute value of its largest unmasked score,
before the softmax, if the collection `intermediates` is mutable."""

MAPS = "attention_maps"
"""Collection, and name in it, of the attention weights: they are sown if it is mutable.
See `attention.maps`."""


def _attend_to_cache(
    q_BTHK: Array, k_BSHK: Array, v_BSHK: Array, seen: Seen
) -> jax.Array:
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, bias=seen.bias)


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


def _weights(q_BTHK: Array, k_BSHK: Array, bias: Array) -> Float[Array, "B H T S"]:
    """Return the softmax of the scores, which `attend` does not return."""
    scores_BHTS = jnp.einsum(
        "BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(scores_BHTS / jnp.sqrt(q_BTHK.shape[-1]) + bias, axis=-1)


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
        # `init` makes every collection mutable; a model's variables are not maps.
        if self.is_mutable_collection(MAPS) and not self.is_initializing():
            self.sow(MAPS, MAPS, _weights(q, k, seen.bias))
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
        return keys.value, values.value, Seen(as_bias(seen_TS)[None, None], None)
