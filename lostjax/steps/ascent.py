"""Move parameters up the gradient of a loss, by a given distance.

    w + r g / |g|

with the norm over all parameters together: the inner step of sharpness-aware
minimisation (Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
Generalization", 2020, arXiv:2010.01412, equation 2).
"""

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree


def ascend(params: PyTree, gradients: PyTree, *, radius: float) -> PyTree:
    """Move parameters by a norm up the gradient: w + r g / |g|.

    Args:
      params: any tree of arrays of a float type.
      gradients: of the same structure and shapes; where all are 0 nothing moves.
      radius: length of the step, over all parameters together.

    Returns:
      The moved parameters, of their own types.
    """
    norm = optax.tree.norm(gradients)
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1.0), 0.0)
    return move(params, gradients, scale=scale)


def move(params: PyTree, direction: PyTree, *, scale: jax.Array) -> PyTree:
    """Add a scaled direction to parameters, which keep their types."""
    moved: PyTree = jax.tree.map(
        lambda w, d: (w + scale * d).astype(w.dtype), params, direction
    )
    return moved
