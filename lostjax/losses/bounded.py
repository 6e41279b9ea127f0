"""A loss with a bound, which a wrong label cannot exceed.

    L_q = (1 - p^q) / q                 p: probability of the given class

Between cross entropy (q -> 0) and the mean absolute error (q = 1, up to a factor of 2):
the gradient of cross entropy times p^q, so that an example that the model finds
unlikely, as one with a wrong label, hardly counts. Zhang and Sabuncu, "Generalized
Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", 2018,
arXiv:1805.07836, equation 6; their q is .7.

Cost: a log-softmax.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import require_classes, require_positive
from lostjax.typing import Array, Float, Int, Scalar


def generalized_cross_entropy_loss(
    logits_V: Float[Array, "*batch V"],
    labels: Int[Array, "*batch"],
    *,
    q: Scalar,
) -> Float[Array, "*batch"]:
    """Compute the generalised cross entropy of each example.

    Args:
      logits_V: scores of the classes (..., V); computed in float32.
      labels: classes (...), in [0, V). Traced ones are not checked: one outside gives
        NaN.
      q: in (0, 1]; near 0 the loss is cross entropy. A traced value is not checked.

    Returns:
      Losses (...), float32, in [0, 1 / q].

    Raises:
      ValueError: a label or q lies outside its range.
    """
    require_positive("q", q)
    if not isinstance(q, jax.core.Tracer) and q > 1:
        raise ValueError(f"q={q}: must lie in (0, 1]")
    n_classes = logits_V.shape[-1]
    require_classes("labels", labels, n_classes)
    log_p_V = jax.nn.log_softmax(logits_V.astype(jnp.float32))
    there = (labels >= 0) & (labels < n_classes)
    index = jnp.where(there, labels, 0)[..., None]
    log_p = jnp.take_along_axis(log_p_V, index, axis=-1)[..., 0]
    # expm1: at a small q the difference 1 - p^q would cancel.
    return jnp.where(there, -jnp.expm1(q * log_p) / q, jnp.nan)
