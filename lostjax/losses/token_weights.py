"""Weights of tokens by how much a reference model is surprised at them.

    w_i = n (1 - p_i)^alpha / sum_j (1 - p_j)^alpha               over n valid tokens

with p_i the probability that a frozen reference model gives to token i. For captions of
images the reference sees the text alone, so that tokens which only the image explains
count more. Chen et al., "Prioritizing Image-Related Tokens Enhances Vision-Language
Pre-Training", 2025, arXiv:2505.08971 (alpha = 1). The lower bound of (1 - p)^alpha is
ours: without one, a token that the reference predicts with certainty has weight 0 and
is never learnt from.

The weights depend on the reference and the text alone: compute them once and keep them,
or keep the reference's losses -log p, of which the second form takes one per token.

Cost: one pass over the reference's logits.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import require_not_negative, require_shape, require_weights
from lostjax.losses.language import next_token_loss
from lostjax.typing import Array, Float, Int


def surprisal_weights(
    reference_logits: Float[Array, "*batch T V"],
    targets: Int[Array, "*batch T"],
    *,
    alpha: float | int = 1.0,
    min_weight: float | int = 0.0,
    weights: Float[Array, "*batch T"] | None = None,
) -> Float[Array, "*batch T"]:
    """Compute a weight for each token of a sequence, with mean 1 over the sequence.

    Args:
      reference_logits: logits of the reference (..., T, V), over the same vocabulary as
        the targets; computed in float32.
      targets: token ids in [0, V), shape (..., T).
      alpha: exponent >= 0; 0 for weights of 1.
      min_weight: lower bound in [0, 1] of (1 - p)^alpha.
      weights: how much each token counts, non-negative, (..., T); 0 for padding, whose
        logits may have any value. None for 1 each.

    Returns:
      Factors (..., T), float32, to multiply `weights` by: their mean weighted by
      `weights` is 1, and they are 0 where `weights` is 0. All are 1 if the reference
      predicts each token with certainty. No gradient flows through them.

    Raises:
      ValueError: shapes that do not match, or a number outside its range.

    Example:
        factor_BT = surprisal_weights(reference_BTV, targets_BT, weights=weights_BT)
        values_BT = next_token_loss(logits_BTV, targets_BT)
        loss = weighted_mean(values_BT, weights_BT * factor_BT)
    """
    require_shape("targets", targets, reference_logits.shape[:-1])
    return surprisal_weights_of_losses(
        next_token_loss(reference_logits, targets),
        alpha=alpha,
        min_weight=min_weight,
        weights=weights,
    )


def surprisal_weights_of_losses(
    reference_losses: Float[Array, "*batch T"],
    *,
    alpha: float | int = 1.0,
    min_weight: float | int = 0.0,
    weights: Float[Array, "*batch T"] | None = None,
) -> Float[Array, "*batch T"]:
    """Compute the weights of `surprisal_weights` from the reference's losses.

    Args:
      reference_losses: -log p of each token under the reference, in nats, (..., T).
      alpha: exponent >= 0; 0 for weights of 1.
      min_weight: lower bound in [0, 1] of (1 - p)^alpha.
      weights: how much each token counts, non-negative, (..., T); 0 for padding, whose
        losses may have any value. None for 1 each.

    Returns:
      Factors (..., T), float32; see `surprisal_weights`.

    Raises:
      ValueError: shapes that do not match, or a number outside its range.
    """
    require_not_negative("alpha", alpha)
    if not 0 <= min_weight <= 1:
        raise ValueError(f"min_weight={min_weight}: must lie in [0, 1]")
    shape = reference_losses.shape
    there = jnp.ones(shape, jnp.float32) if weights is None else weights
    require_shape("weights", there, shape)
    require_weights("weights", there)
    there = there.astype(jnp.float32)
    log_p = -reference_losses.astype(jnp.float32)
    # expm1 keeps the digits of 1 - p near p = 1.
    raw = jnp.maximum(-jnp.expm1(log_p), 0.0) ** alpha
    # Select before multiplying: 0 * NaN is NaN.
    raw = jnp.where(there > 0, jnp.maximum(raw, min_weight), 0.0)
    total = jnp.sum(there * raw, axis=-1, keepdims=True)
    count = jnp.sum(there, axis=-1, keepdims=True)
    equal = (there > 0).astype(jnp.float32)
    factors = jnp.where(
        total == 0, equal, raw * count / jnp.where(total == 0, 1, total)
    )
    return jax.lax.stop_gradient(factors)
