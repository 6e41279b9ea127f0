"""The one reduction of the library: a weighted mean.

    mean = sum_i w_i v_i / sum_i w_i

Losses return a value per example or token and never reduce; whoever knows the weights
(padding, importance, duplicates) reduces here. Sum and normaliser are also available
apart, because accumulated or sharded means are exact only when both are summed first.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float


def weighted_sums(
    values: Float[Array, "..."], weights: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum values times weights, and weights.

    Args:
      values: any shape, any float type; summed in float32. Where a weight is zero the
        value may be anything, also non-finite: it does not enter.
      weights: same shape, non-negative.

    Returns:
      (sum of weights * values, sum of weights), float32 scalars.
    """
    weights = weights.astype(jnp.float32)
    kept = jnp.where(weights == 0, 0.0, values.astype(jnp.float32))
    return jnp.sum(weights * kept), jnp.sum(weights)


def weighted_mean(
    values: Float[Array, "..."], weights: Float[Array, "..."]
) -> Float[Array, ""]:
    """Average values by their weights.

    Args:
      values: any shape, any float type; averaged in float32.
      weights: same shape, non-negative; zero removes a value exactly.

    Returns:
      The weighted mean, a float32 scalar; 0 where every weight is 0.
    """
    total, weight = weighted_sums(values, weights)
    return total / jnp.where(weight == 0, 1.0, weight)


def sequence_means(
    values_BT: Float[Array, "B T"], weights_BT: Float[Array, "B T"]
) -> Float[Array, "B"]:
    """Average the values of each row by their weights.

    Args:
      values_BT: values of tokens, any float type; averaged in float32.
      weights_BT: non-negative; zero removes a value exactly.

    Returns:
      One mean a row, float32; 0 where a row's weights are all 0.
    """
    return jax.vmap(weighted_mean)(values_BT, weights_BT)
