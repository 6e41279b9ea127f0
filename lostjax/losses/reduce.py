"""The only reduction of the library: a weighted mean.

    mean = sum_i w_i v_i / sum_i w_i

Losses return one value per example or token and never reduce. The caller, who knows the
weights (padding, importance, duplicates), reduces with this module. The sum and its
normaliser are also available separately, because a mean over micro-batches or shards is
exact only if both are summed before the division.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float


def weighted_sums(
    values: Float[Array, "..."], weights: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum the weighted values, and the weights.

    Args:
      values: any shape and float type; summed in float32. A value of weight 0 does not
        enter the sum, even if it is not finite.
      weights: same shape as `values`, non-negative.

    Returns:
      (sum of weights * values, sum of weights), float32 scalars.
    """
    weights = weights.astype(jnp.float32)
    # Select before multiplying: 0 * inf and 0 * NaN are NaN, in the gradient as well.
    kept = jnp.where(weights == 0, 0.0, values.astype(jnp.float32))
    return jnp.sum(weights * kept), jnp.sum(weights)


def weighted_mean(
    values: Float[Array, "..."], weights: Float[Array, "..."]
) -> Float[Array, ""]:
    """Compute the weighted mean of all values.

    Args:
      values: any shape and float type; averaged in float32.
      weights: same shape as `values`, non-negative; weight 0 removes a value exactly.

    Returns:
      The weighted mean, a float32 scalar; 0 if all weights are 0.
    """
    total, weight = weighted_sums(values, weights)
    # Divide by 1 if there is no weight: `where` after a division by 0 has a NaN
    # gradient.
    return total / jnp.where(weight == 0, 1.0, weight)


def sequence_means(
    values_BT: Float[Array, "B T"], weights_BT: Float[Array, "B T"]
) -> Float[Array, "B"]:
    """Compute the weighted mean of each row.

    Args:
      values_BT: values of tokens (B, T), any float type; averaged in float32.
      weights_BT: shape (B, T), non-negative; weight 0 removes a value exactly.

    Returns:
      Means of shape (B,), float32; 0 for a row whose weights are all 0.
    """
    return jax.vmap(weighted_mean)(values_BT, weights_BT)


def require_one_per_example(name: str, losses_B: jax.Array) -> None:
    """Raise a ValueError unless there is one axis, that of examples."""
    if losses_B.ndim != 1:
        raise ValueError(
            f"{name} has shape {losses_B.shape}: must be (B,), one loss per example; "
            "average the tokens of each example first, with losses.sequence_means"
        )
