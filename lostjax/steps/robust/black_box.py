"""The square attack: a search for wrong answers that needs no gradient.

    d' = d, but +-r in a random square        accepted for an example if its value rises

A model that is safe from gradients alone is not safe: gradients may be masked.
Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack
via random search", 2019, arXiv:1912.00049, for the l_inf ball. The start is vertical
stripes of +-r. The area of the squares begins at a share of the image and is halved at
their rounds, here at the same shares of `n_queries` as theirs of 10,000.

Cost: a forward pass a query.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import require_positive
from lostjax.steps.robust.ascent import ValueOf
from lostjax.typing import Array, Float, Key, PyTree, Scalar

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000."""


def square_attack(
    value_of: ValueOf,
    images: Float[Array, "B H W"],
    *,
    radius: Scalar,
    n_queries: int,
    key: Key,
    share: float = 0.8,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "B H W"]:
    """Search around each image for one of larger value, by random squares.

    Args:
      value_of: what shall rise; the margin by which the answer is wrong.
      images: (B, H, W), in [low, high].
      radius: of the l_inf ball; may be traced.
      n_queries: values asked for, at least 1.
      key: decides the squares, each example's own.
      share: of the image's area in the first squares, in (0, 1].
      low: least value of a pixel.
      high: largest.

    Returns:
      Images (B, H, W) in the ball and in [low, high]; no gradient flows through them.

    Raises:
      ValueError: n_queries is below 1, or share lies outside (0, 1].
    """
    require_positive("n_queries", n_queries)
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: must lie in (0, 1]")
    images = jax.lax.stop_gradient(images)
    n_images, height, width = images.shape
    row_H, column_W = jnp.arange(height), jnp.arange(width)

    def inside(d: Array) -> Array:
        return jnp.clip(images + d, low, high)

    def signs(key: Key, shape: tuple[int, ...]) -> Array:
        return radius * jax.random.rademacher(key, shape, images.dtype)

    def query(best: tuple[Array, Array], number: Array) -> tuple[PyTree, None]:
        d, values_B = best
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        passed = jnp.asarray(HALVED_AT) * n_queries <= number * 10_000
        area = share / 2.0 ** jnp.sum(passed)
        side = jnp.clip(
            jnp.round(jnp.sqrt(area * height * width)), 1, min(height, width)
        )
        top_B, left_B = (
            jnp.floor(jax.random.uniform(each, (n_images, 1)) * (size - side + 1))
            for each, size in zip(keys[:2], (height, width), strict=True)
        )
        in_rows_BH = (row_H >= top_B) & (row_H < top_B + side)
        in_columns_BW = (column_W >= left_B) & (column_W < left_B + side)
        square_BHW = in_rows_BH[:, :, None] & in_columns_BW[:, None, :]
        tried = jnp.where(square_BHW, signs(keys[2], (n_images, 1, 1)), d)
        new_B = value_of(inside(tried))
        better_B = ~(new_B <= values_B)
        d = jnp.where(better_B[:, None, None], tried, d)
        return (d, jnp.where(better_B, new_B, values_B)), None

    start = jnp.broadcast_to(
        signs(jax.random.fold_in(key, n_queries), (n_images, 1, width)), images.shape
    )
    begun = start, value_of(inside(start))
    (d, _), _ = jax.lax.scan(query, begun, jnp.arange(1, n_queries))
    return inside(d)
