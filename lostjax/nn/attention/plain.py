"""Attention by XLA's products, and the signature of all implementations.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s     over s <= t in t's document

The softmax is that of `jax.nn.dot_product_attention`, in float32. Equivalent
implementations can replace `plain_attention`: kernels
(`lostjax.nn.kernels.attention`), or `lostjax.nn.attention.blocked` on CPUs.

Cost per token and layer: 4 T D forward FLOPs for the full square of scores, and H T
saved probabilities. Splitting the queries into parts reduces both to 5/8.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lostjax.nn.attention.mask import Seen
from lostjax.typing import Array, Float

ATTENDED = "attended"
"""`checkpoint_name` of the output of attention, before the matrix o. All
implementations label their output with it; splash attention also labels its sums of
exponentials, and blocked attention everything that its backward pass needs. The sums of
cuDNN attention have no name: a policy that saves only the output recomputes its forward
pass."""


PARTS = 4
"""Number of parts into which `plain_attention` splits the queries: five eighths of the
square of scores remain."""


LEAST = 128
"""Minimum number of queries per part: slicing keys and values costs as much as the
scores that it saves. Splitting rows of 256 tokens would make a step of 7b 8 to 9 %
slower on v5e, as estimated from its compiled program."""


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
