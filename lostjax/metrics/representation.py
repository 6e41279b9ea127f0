"""Scores of representations on the unit sphere: alignment and uniformity.

    alignment  = mean over positive pairs of |x - y|^p
    uniformity = log mean over pairs i < j of exp(-t |x_i - x_j|^2)

Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and
Uniformity on the Hypersphere", 2020, arXiv:2005.10242, with p = 2 and t = 2. Less is
better for both: views of one example lie together, and examples spread out. They are
meant for rows of norm 1, and nothing is normalised here: a constant representation has
the best alignment, 0, and the worst uniformity, 0.

Cost: B D for alignment; B^2 D for uniformity, B D at once.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.metrics.inputs import require_examples, require_shape
from lostjax.typing import Array, Float


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
    _require_positive("power", power)
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
    _require_positive("t", t)
    n_rows = len(x_BD)

    def potential(row: jax.Array) -> jax.Array:
        """Sum a row's potentials, in logs: a large t underflows."""
        # Differences, and no product of all rows, which loses small distances.
        logs_B = -t * _squared_norm(x_BD[row] - x_BD)
        others_B = jnp.arange(n_rows) != row
        return jax.nn.logsumexp(logs_B, where=others_B)

    rows_B = jax.lax.map(potential, jnp.arange(n_rows))
    return jax.nn.logsumexp(rows_B) - jnp.log(n_rows) - jnp.log(n_rows - 1)


def _squared_norm(x_BD: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x_BD.astype(jnp.float32)), axis=-1)


def _require_positive(name: str, value: float | int) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value}: must be positive")
