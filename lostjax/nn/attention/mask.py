"""The mask of causal attention: the past within a document.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(K) + bias_ts) v_s
    bias_ts = 0 if s <= t and both are in one document, else -1e30

A row can hold several packed documents, which segment ids tell apart.
"""

from typing import NamedTuple

import jax.numpy as jnp

from lostjax.typing import Array, Float, Int

HIDDEN = -1e30
"""Value added to masked scores. Finite, because -inf - -inf would be NaN."""


class Seen(NamedTuple):
    """Mask information in two forms: XLA adds the bias, kernels use the segment ids."""

    bias: Array
    """Bias of the scores, see `causal_bias`; (B or 1, 1, T query, S key), float32."""
    segments_BT: Array | None
    """Document ids within each row (B, T); None if each row is one document."""


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
    return as_bias(seen_BTS)[:, None]


def as_bias(seen: Array) -> Array:
    """Convert a boolean mask to a bias, float32: 0 where it is true, else -1e30."""
    return jnp.where(seen, 0.0, HIDDEN).astype(jnp.float32)
