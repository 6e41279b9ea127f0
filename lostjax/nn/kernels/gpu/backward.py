"""The backward GPU kernel of a narrow product; XLA computes the weight gradients.

With [h | x_I] from the forward pass and the gradient g of the output:

    dh = gamma act'(h) (g B')       dx = dh A' + (1 - gamma) (g W') E'
    dA = x' dh                      [U; V] = [act(h) | x_I]' g
    dB = gamma U                    dW = (1 - gamma) V
    dgamma = sum U B - sum V W

dh and dx are one pass of g through two products (see `lostjax.nn.kernels.gpu.product`):
multiplying by the one-hot E' replaces a scatter into dx. The pass reads h and writes,
besides dh, the left factor of [U; V]. dA and [U; V] are sums over all rows, as large as
the weights, in float32 (350m up: 4 MB): more than the 227 KiB of shared memory of a
block. XLA computes them, and therefore reads x and g once more than a kernel that kept
its sums would. Bytes at two bytes per number, over P rows:

    the pass     2 P (N + M + R + 2 (R + C))
    dA           2 P (M + R)
    [U; V]       2 P (N + R + C)

In addition, XLA writes and reads sums over 4 to 32 parts of the rows, in float32, and
weights in the layout of the pass: for 350m down at 8192 rows 48 MB and 10 MB, compared
with 147 MB by the lines above.
"""

import jax
import jax.numpy as jnp

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.gpu.blocks import Tiles
from lostjax.nn.kernels.gpu.elementwise import pull_through
from lostjax.nn.kernels.gpu.forward import gamma_of, kept_factors
from lostjax.nn.kernels.gpu.pass_over_rows import Pieces
from lostjax.nn.kernels.gpu.product import Factors, two_products
from lostjax.typing import Activation, Array, Float

_ROWS_WITH_ROWS = (((0,), (0,)), ((), ()))


def backward_product(
    x_PM: Float[Array, "P M"],
    hidden_PK: Float[Array, "P K"],
    g_PN: Float[Array, "P N"],
    weights: BottleneckWeights,
    *,
    activation: Activation | None,
    tiles: Tiles,
) -> tuple[jax.Array, BottleneckWeights]:
    """Compute the gradients of rows and weights on a GPU.

    All arrays have the same 16-bit dtype.

    Args:
        x_PM: rows (P, M), P a multiple of 8.
        hidden_PK: x A and x_I (P, K), as returned by `forward_product`.
        g_PN: gradient of the output (P, N).
        weights: weights of the matrix; 16 divides M and N, 64 divides R.
        activation: activation between the factors; None for the identity.
        tiles: tile sizes of the pass.

    Returns:
        The gradients of the rows (P, M) and of the weights; that of gamma is float32.
    """

    def pull(
        dz: jax.Array, gamma: jax.Array, h: jax.Array | None
    ) -> tuple[Pieces, jax.Array]:
        dh = gamma * dz
        if activation is None or h is None:
            return (dh,), dh
        dh = pull_through(activation, h, dh)
        return (dh, activation(h)), dh

    def pass_on(
        dx: jax.Array, gamma: jax.Array, x: jax.Array | None
    ) -> tuple[Pieces, jax.Array]:
        # The sums of g W' are scaled; x_I is written as the left operand of [U; V].
        return (None, x), (1 - gamma) * dx

    (rank, _), (_, narrow) = weights.b_RN.shape, hidden_PK.shape
    one_hot_MC, values_CN = kept_factors(weights)
    dx_PM, dh_PR, *activated = two_products(
        # Transposed copies of the weights, in the layout that the pass reads.
        g_PN,
        Factors(weights.b_RN.T, None if values_CN is None else values_CN.T),
        Factors(weights.a_MR.T, None if one_hot_MC is None else one_hot_MC.T),
        gamma_of(weights),
        between=pull,
        between_kept=pass_on,
        tiles=tiles,
        # Without an activation, dh needs no h and [h | x_I] is the left operand.
        saved_PK=hidden_PK if activation else None,
        keep=(rank, narrow) if activation else (rank,),
        name="lost_backward",
    )
    da_MR = _summed_product(x_PM, dh_PR)
    both_KN = _summed_product(activated[0] if activated else hidden_PK, g_PN)
    return dx_PM, _gradients(weights, da_MR, both_KN, dtype=x_PM.dtype)


def _gradients(
    weights: BottleneckWeights,
    da_MR: jax.Array,
    both_KN: jax.Array,
    *,
    dtype: jnp.dtype,
) -> BottleneckWeights:
    # XLA splits this sum over rows: the barrier adds up the parts once, not per use.
    both_KN = jax.lax.optimization_barrier(both_KN)
    # gamma stays float32: bfloat16 would round a learnt scalar to two digits.
    rank, gamma = weights.b_RN.shape[0], jnp.asarray(weights.gamma, jnp.float32)
    db_RN = both_KN[:rank]
    dgamma = jnp.vdot(db_RN, weights.b_RN.astype(jnp.float32))
    gradients = BottleneckWeights(da_MR.astype(dtype), (gamma * db_RN).astype(dtype))
    if weights.values_CN is None:
        return gradients._replace(gamma=dgamma)
    # Rows of both_KN after the kept channels belong to padding.
    dvalues_CN = both_KN[rank:][: weights.values_CN.shape[0]]
    dgamma -= jnp.vdot(dvalues_CN, weights.values_CN.astype(jnp.float32))
    dvalues_CN = ((1 - gamma) * dvalues_CN).astype(dtype)
    return gradients._replace(values_CN=dvalues_CN, gamma=dgamma)


def _summed_product(x: jax.Array, y: jax.Array) -> jax.Array:
    # Accumulate in float32: bfloat16 sums over thousands of rows lose digits.
    return jax.lax.dot_general(
        x, y, _ROWS_WITH_ROWS, preferred_element_type=jnp.float32
    )
