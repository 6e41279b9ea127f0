"""Move parameters a given distance along the gradient of a loss.

    w + r g / |g|

The norm is taken over all parameters together. This is the inner step of
sharpness-aware minimisation (Foret et al., "Sharpness-Aware Minimization for
Efficiently Improving Generalization", 2020, arXiv:2010.01412, equation 2).
"""

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree


def ascend(params: PyTree, gradients: PyTree, *, radius: float) -> PyTree:
    """Move parameters a distance r along the gradient: w + r g / |g|.

    Args:
      params: any tree of float arrays.
      gradients: tree of the same structure and shapes; if all are 0, nothing moves.
      radius: length of the step r, measured over all parameters together.

    Returns:
      The moved parameters, with the shapes and types of `params`.
    """
    norm = optax.tree.norm(gradients)
    # The inner `where` avoids 0 / 0, whose NaN would also reach gradients.
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1.0), 0.0)
    return move(params, gradients, scale=scale)


def move(params: PyTree, direction: PyTree, *, scale: jax.Array) -> PyTree:
    """Add scale * direction to parameters, which keep their types.

    Args:
      params: any tree of float arrays.
      direction: tree of the same structure and shapes.
      scale: scalar factor of the direction.

    Returns:
      The moved parameters, with the shapes and types of `params`.
    """
    moved: PyTree = jax.tree.map(
        # Cast back: a float32 scale would widen bfloat16 parameters.
        lambda w, d: (w + scale * d).astype(w.dtype),
        params,
        direction,
    )
    return moved
