"""How a contrastive loss spreads its gradient over the negatives of an anchor.

    r_k = |dL / ds_k| / |dL / ds_own| = exp(s_k / t) / sum_j exp(s_j / t)

for the softmax loss with similarities s and temperature t (`losses.info_nce_loss`); the
sums are over negatives, so that the penalties of an anchor add up to 1. At a low
temperature the hardest negatives take all of it, at a high one all are penalised alike.
Wang & Liu, "Understanding the Behaviour of Contrastive Loss", 2020, arXiv:2012.09740,
section 3.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import require_positive
from lostjax.typing import Array, Float, Scalar


def relative_penalty(
    similarities: Float[Array, "*batch N"], *, temperature: Scalar
) -> Float[Array, "*batch N"]:
    """Compute the share of each negative in the gradient of the contrastive loss.

    Args:
      similarities: similarities of anchors to their negatives alone (..., N), N >= 1.
      temperature: t > 0 of the loss.

    Returns:
      Penalties (..., N), float32, with sum 1 over the last axis.

    Raises:
      ValueError: no negatives, or a temperature that is not positive.
    """
    require_positive("temperature", temperature)
    if not similarities.shape[-1]:
        raise ValueError("similarities: no negatives, needs 1 or more")
    return jax.nn.softmax(similarities.astype(jnp.float32) / temperature, axis=-1)
