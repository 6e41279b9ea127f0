"""The forward GPU kernel of a narrow product.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

It is one pass, see `lostjax.nn.kernels.gpu.product`: x A, its activation and x_I stay
in shared memory, and y is written once. [x A | x_I] is also written if the backward
pass needs it.
"""

import jax
import jax.numpy as jnp

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.gpu.blocks import BLOCK, Tiles, round_up
from lostjax.nn.kernels.gpu.pass_over_rows import Pieces
from lostjax.nn.kernels.gpu.product import Factors, two_products
from lostjax.typing import Activation, Array, Float


def forward_product(
    x_PM: Float[Array, "P M"],
    weights: BottleneckWeights,
    *,
    activation: Activation | None,
    tiles: Tiles,
    keep_hidden: bool,
) -> tuple[jax.Array, ...]:
    """Multiply rows by a narrow matrix on a GPU.

    Rows and weights have the same 16-bit dtype.

    Args:
        x_PM: rows (P, M), P a multiple of 8.
        weights: weights of the matrix; 16 divides M and N, 64 divides R.
        activation: activation between the factors; None for the identity.
        tiles: tile sizes of the pass.
        keep_hidden: also return x A and x_I.

    Returns:
        (y_PN,) or (y_PN, hidden_PK), where K is R + C, with C rounded up to 64.
    """

    def activate(
        h: jax.Array, gamma: jax.Array, saved: None
    ) -> tuple[Pieces, jax.Array]:
        del saved
        return (h,), gamma * (activation(h) if activation else h)

    def pass_on(
        x: jax.Array, gamma: jax.Array, saved: None
    ) -> tuple[Pieces, jax.Array]:
        del saved
        return (x,), (1 - gamma) * x

    rank = weights.b_RN.shape[0]
    one_hot_MC, values_CN = kept_factors(weights)
    n_kept = 0 if values_CN is None else values_CN.shape[0]
    return two_products(
        x_PM,
        Factors(weights.a_MR, one_hot_MC),
        Factors(weights.b_RN, values_CN),
        gamma_of(weights),
        between=activate,
        between_kept=pass_on,
        tiles=tiles,
        # h is written before the activation, because its derivative needs h.
        keep=(rank + n_kept,) if keep_hidden else (),
        name="lost_forward",
    )


def kept_factors(weights: BottleneckWeights) -> tuple[jax.Array | None, ...]:
    """Return a one-hot E (M, C) and W (C, N) with x_I W = x E W, C padded to 64.

    Both are None without kept channels.
    """
    if weights.kept_C is None or weights.values_CN is None:
        return None, None
    missing = round_up(weights.kept_C.shape[0], BLOCK) - weights.kept_C.shape[0]
    # -1 matches no channel: padded columns of E, and so of x E, are zero.
    kept_C = jnp.pad(weights.kept_C, (0, missing), constant_values=-1)
    channels_M = jnp.arange(weights.a_MR.shape[0], dtype=kept_C.dtype)
    # Exact: every sum of x E has one nonzero term, x itself.
    one_hot_MC = (channels_M[:, None] == kept_C).astype(weights.a_MR.dtype)
    return one_hot_MC, jnp.pad(weights.values_CN, ((0, missing), (0, 0)))


def gamma_of(weights: BottleneckWeights) -> Float[Array, "1"]:
    """Return gamma as a float32 array (1,), which the kernels read."""
    return jnp.asarray(weights.gamma, jnp.float32).reshape(1)
