"""Scores of representations on the unit sphere: alignment, uniformity, tolerance.

    alignment  = mean over positive pairs of |x - y|^p
    uniformity = log mean over pairs i < j of exp(-t |x_i - x_j|^2)
    tolerance  = mean over pairs i < j of one class of x_i . x_j

Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and
Uniformity on the Hypersphere", 2020, arXiv:2005.10242, with p = 2 and t = 2. Less is
better for both: views of one example lie together, and examples spread out. They are
meant for rows of norm 1, and nothing is normalised here: a constant representation has
the best alignment, 0, and the worst uniformity, 0. The tolerance is that of Wang & Liu,
"Understanding the Behaviour of Contrastive Loss", 2020, arXiv:2012.09740, who discuss
how a high temperature raises it and lowers uniformity; the mean over pairs of equal
labels is our reading of it. A constant representation has the highest, 1.

Cost: B D for alignment; B^2 D for the others, B D at once.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import nan_if, require_examples, require_positive, require_shape
from lostjax.typing import Array, Float, Int


def alignment(
    x_BD: Float[ArrayLike, "B D"],
    y_BD: Float[ArrayLike, "B D"],
    *,
    power: float | int = 2,
) -> Float[Array, ""]:
    """Compute the mean distance between two views of each example.

    Args:
      x_BD: one view's representations (B, D), rows of norm 1; B >= 1.
      y_BD: the other view's, (B, D).
      power: p > 0, of the Euclidean distance.

    Returns:
      In [0, 2^p], float32; NaN if a number is NaN.

    Raises:
      ValueError: no example, shapes that differ, or p is not positive.
    """
    x_BD, y_BD = jnp.asarray(x_BD), jnp.asarray(y_BD)
    require_examples("x_BD", x_BD)
    require_shape("y_BD", y_BD, x_BD.shape)
    require_positive("power", power)
    return jnp.mean(_squared_norm(x_BD - y_BD) ** (power / 2))


def uniformity(
    x_BD: Float[ArrayLike, "B D"], *, t: float | int = 2
) -> Float[Array, ""]:
    """Compute the log of the mean Gaussian potential between examples.

    Args:
      x_BD: representations (B, D), rows of norm 1; B >= 2.
      t: inverse width of the potential, positive.

    Returns:
      In [-4 t, 0], float32; NaN if a number is NaN.

    Raises:
      ValueError: fewer than two examples, or t is not positive.
    """
    x_BD = jnp.asarray(x_BD)
    require_examples("x_BD", x_BD, at_least=2)
    require_positive("t", t)
    n_rows = len(x_BD)

    def potential(row: jax.Array) -> jax.Array:
        """Sum a row's potentials, in logs: a large t underflows."""
        # Differences, and no product of all rows, which loses small distances.
        logs_B = -t * _squared_norm(x_BD[row] - x_BD)
        others_B = jnp.arange(n_rows) != row
        return jax.nn.logsumexp(logs_B, where=others_B)

    rows_B = jax.lax.map(potential, jnp.arange(n_rows))
    return jax.nn.logsumexp(rows_B) - jnp.log(n_rows) - jnp.log(n_rows - 1)


def tolerance(
    x_BD: Float[ArrayLike, "B D"], labels_B: Int[ArrayLike, "B"]
) -> Float[Array, ""]:
    """Compute the mean similarity of examples of one class.

    Args:
      x_BD: representations (B, D), rows of norm 1; B >= 2.
      labels_B: any integers (B,); equal ones are one class.

    Returns:
      In [-1, 1], float32; NaN if no two examples have one class, or if a number is NaN.

    Raises:
      ValueError: fewer than two examples, or shapes that differ.
    """
    x_BD, labels_B = jnp.asarray(x_BD), jnp.asarray(labels_B)
    require_examples("x_BD", x_BD, at_least=2)
    require_shape("labels_B", labels_B, x_BD.shape[:1])
    x_BD = x_BD.astype(jnp.float32)

    def compare(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Average a row's similarities to others of its class; (mean, how many)."""
        alike_B = (labels_B == labels_B[row]) & (jnp.arange(len(labels_B)) != row)
        # A product elementwise: a TPU's matrix product would round to bfloat16.
        similarity_B = jnp.sum(x_BD[row] * x_BD, axis=-1)
        n_alike = jnp.sum(alike_B)
        total = jnp.sum(similarity_B, where=alike_B)
        return total / jnp.maximum(n_alike, 1), n_alike

    mean_B, n_alike_B = jax.lax.map(compare, jnp.arange(len(labels_B)))
    # Shares of pairs instead of a sum over all pairs, which loses digits.
    share_B = n_alike_B / jnp.sum(n_alike_B)  # 0 / 0 is NaN
    return nan_if(jnp.any(jnp.isnan(x_BD)), jnp.sum(share_B * mean_B))


def _squared_norm(x_BD: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x_BD.astype(jnp.float32)), axis=-1)
