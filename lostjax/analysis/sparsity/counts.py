"""Counts of masked weights and of weights near zero, and the likeness of masks.

Jaiswal et al., 2023, arXiv:2306.03805, compare masks by their cosine similarity, and
count weights of about zero in checkpoints; see `lostjax.analysis.sparsity.masks`.
"""

from typing import NamedTuple

import jax
import numpy as np

from lostjax.analysis.sparsity.chosen import choose_matrices, read_magnitudes
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.typing import PyTree


class NearZero(NamedTuple):
    """Weights of about zero."""

    near: int
    """Weights of absolute value at most the tolerance."""
    total: int
    """All weights that were looked at."""


def sparsity_of(mask: PyTree) -> float:
    """Compute the share of weights that a mask removes, of those in its arrays."""
    arrays = _mask_arrays(mask)
    total = sum(array.size for array in arrays)
    return 1 - sum(np.count_nonzero(array) for array in arrays) / max(1, total)


def mask_cosine(first: PyTree, second: PyTree) -> float:
    """Compute the cosine similarity of two masks of the same parameters.

    Two independent random masks that keep shares d and e have a similarity of about
    sqrt(d e): compare with that and not with 0.

    Args:
      first: a mask.
      second: another one of the same structure and shapes.

    Returns:
      The similarity, in [0, 1]; 0 if a mask keeps nothing.

    Raises:
      ValueError: if the masks are of other shapes.
    """
    ours, theirs = _mask_arrays(first), _mask_arrays(second)
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        raise ValueError("second: has other arrays than first")
    both = sum(np.count_nonzero(a & b) for a, b in zip(ours, theirs, strict=True))
    kept = [float(sum(map(np.count_nonzero, masks))) for masks in (ours, theirs)]
    return float(both / np.sqrt(kept[0] * kept[1])) if both else 0.0


def near_zero_count(
    params: PyTree,
    *,
    tolerance: float | int,
    matrices: MatricesOrRule | None = None,
) -> NearZero:
    """Count the weights of about zero, whose number can jump during training.

    The paper states no tolerance: report yours.

    Args:
      params: a tree of float arrays.
      tolerance: largest absolute value that counts, 0 or more.
      matrices: see `magnitude_mask`.

    Returns:
      How many there are, and of how many weights.

    Raises:
      ValueError: if the tolerance is negative or NaN, or there is no matrix.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must be 0 or positive")
    chosen = choose_matrices(params, matrices)
    near = (np.count_nonzero(read_magnitudes(x) <= tolerance) for x in chosen.leaves)
    return NearZero(int(sum(near)), chosen.n_weights)


def _mask_arrays(mask: PyTree) -> list[np.ndarray]:
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]
    return [array for array in arrays if array.ndim]
