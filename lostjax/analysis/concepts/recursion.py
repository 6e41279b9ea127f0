"""Crops of images, and concepts of a concept at an earlier layer.

A concept of a late layer can mix several things, such as the two ends of a shoe. Take
the crops that have most of it, those at or above a quantile of u_i, and factorise their
activations at an earlier layer: its concepts are parts of the first one. This is the
recursion of CRAFT (Fel et al., 2022, arXiv:2211.10154), which neither of the released
packages has.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lostjax.analysis.concepts.factorisation import Factorisation, nmf
from lostjax.checks import require_weights
from lostjax.typing import Array, Float


class SubConcepts(NamedTuple):
    """The concepts of a concept."""

    rows_K: np.ndarray
    """The crops that have most of the concept, by falling u, (K,)."""
    factors: Factorisation
    """Of the activations of these crops at the earlier layer, in their order."""


def extract_crops(
    images_BHWC: Float[Array, "B H W C"], *, size: int, stride: int
) -> Float[Array, "X S S C"]:
    """Cut square crops out of images, on a grid.

    Args:
      images_BHWC: images (B, H, W, C).
      size: S, pixels a side, from 1 to min(H, W).
      stride: pixels from one crop to the next, 1 or more. What is left at the lower and
        right edge is in no crop.

    Returns:
      Crops (X, S, S, C): those of the first image by rows, those of the second, ....

    Raises:
      ValueError: if a number is out of its range.
    """
    _, height, width, _ = images_BHWC.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size={size}: must lie in [1, {min(height, width)}]")
    if stride < 1:
        raise ValueError(f"stride={stride}: must be at least 1")
    crops = [
        images_BHWC[:, row : row + size, column : column + size]
        for row in range(0, height - size + 1, stride)
        for column in range(0, width - size + 1, stride)
    ]
    stacked = jnp.stack(crops, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def refine_concept(
    encode: Callable[[Array], Array],
    crops: Float[Array, "B ..."],
    *,
    strength_B: Float[Array, "B"],
    rank: int,
    quantile: float = 0.9,
    max_steps: int = 200,
) -> SubConcepts:
    """Factorise a concept's strongest crops at an earlier layer.

    Args:
      encode: maps crops (K, ...) to non-negative activations (K, M) of that layer.
      crops: the crops that the concept was found on, (B, ...).
      strength_B: how much of the concept each crop has, u_BR[:, i] of `nmf`.
      rank: number of sub-concepts, from 1 to the number of crops that are kept.
      quantile: crops of strength at this quantile or above are kept, in [0, 1).
      max_steps: of `nmf`.

    Returns:
      The crops and the factors of their activations.

    Raises:
      ValueError: if an argument is out of its range, or no crop has any of the concept.
    """
    if strength_B.shape != crops.shape[:1]:
        raise ValueError(
            f"strength_B: shape {strength_B.shape}, must be ({len(crops)},) as there "
            "are that many crops"
        )
    if not 0 <= quantile < 1:
        raise ValueError(f"quantile={quantile}: must lie in [0, 1)")
    require_weights("strength_B", strength_B)
    known_B = np.asarray(strength_B)
    if not known_B.max(initial=0.0) > 0:
        raise ValueError("strength_B: is 0 everywhere, no crop has the concept")
    # A concept that few crops have has a quantile of 0, which all crops reach.
    kept_B = (known_B >= np.quantile(known_B, quantile)) & (known_B > 0)
    rows_K = np.argsort(-known_B, kind="stable")[: kept_B.sum()]
    return SubConcepts(rows_K, nmf(encode(crops[rows_K]), rank, max_steps=max_steps))
