"""Masks that remove weights at once, without training: by size, at random, by pattern.

    magnitude    the s n smallest of all n weights together               (global)
    N:M          of each M consecutive weights along the inputs, all but the N largest
    random       s n weights at random
    ERK          s n weights at random; a matrix of M inputs and N outputs keeps a share
                 proportional to (M + N) / (M N), at most 1

A mask has the structure of the parameters: a boolean array at each chosen matrix, True
at weights that are kept, and the number True at every other leaf. Matrices are chosen
as `optim.find_matrices` does, so that embeddings, heads, norms and biases stay whole;
LOST's factors and kept channels count as matrices.

Weights are ranked and not compared with a threshold: a mask removes exactly
round(s n) weights even if many are equal, and masks of one key or tree are nested in
s. Of equal weights the earliest are removed. NaN counts as the largest.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805. ERK is from Evci et al.,
"Rigging the Lottery: Making All Tickets Winners", 2020, arXiv:1911.11134. Arrays of any
framework are read on the host; ranking takes O(n) time and one float copy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis.sparsity.chosen import Chosen, choose_matrices, read_magnitudes
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.typing import PyTree


def magnitude_mask(
    params: PyTree, sparsity: float | int, *, matrices: MatricesOrRule | None = None
) -> PyTree:
    """Keep the weights of largest absolute value among all matrices together.

    Args:
      params: a tree of float arrays.
      sparsity: share of the weights to remove, in [0, 1).
      matrices: which leaves are matrices; see `optim.find_matrices`, the default.

    Returns:
      The mask; its arrays lie on the devices of the parameters.

    Raises:
      ValueError: if the sparsity is out of range or there is no matrix.

    Example:
      mask = magnitude_mask(params, 0.3)
      sparse = apply_mask(params, mask)
    """
    chosen = choose_matrices(params, matrices)
    sizes = np.concatenate([np.ravel(read_magnitudes(leaf)) for leaf in chosen.leaves])
    return chosen.split(~_smallest(sizes, _count_removed(sparsity, len(sizes))))


def random_mask(
    params: PyTree,
    sparsity: float | int,
    *,
    key: jax.Array,
    matrices: MatricesOrRule | None = None,
) -> PyTree:
    """Remove weights of all matrices together at random.

    Args:
      params: a tree of float arrays.
      sparsity: share of the weights to remove, in [0, 1).
      key: random key; masks of one key are nested.
      matrices: see `magnitude_mask`.

    Returns:
      The mask.

    Raises:
      ValueError: see `magnitude_mask`.
    """
    chosen = choose_matrices(params, matrices)
    ranks = _draw(key, chosen.n_weights)
    return chosen.split(~_smallest(ranks, _count_removed(sparsity, len(ranks))))


def erk_mask(
    params: PyTree,
    sparsity: float | int,
    *,
    key: jax.Array,
    matrices: MatricesOrRule | None = None,
) -> PyTree:
    """Remove weights at random, with the densities of `erk_densities`.

    Args:
      params: a tree of float arrays.
      sparsity: share of all weights to remove, in [0, 1).
      key: random key.
      matrices: see `magnitude_mask`.

    Returns:
      The mask. Stacked matrices (the layers of a scan) share one count.

    Raises:
      ValueError: see `magnitude_mask`.
    """
    chosen = choose_matrices(params, matrices)
    _count_removed(sparsity, 1)
    densities = _erk(chosen, 1 - sparsity)
    # Rounded sums, so that the total is exact and not only each matrix.
    kept = np.round(np.cumsum([d * np.size(x) for d, x in chosen.pair(densities)]))
    counts = np.diff(kept, prepend=0).astype(int)
    ranks = np.split(_draw(key, chosen.n_weights), chosen.borders)
    parts = [
        ~_smallest(drawn, drawn.size - int(count))
        for drawn, count in zip(ranks, counts, strict=True)
    ]
    return chosen.split(np.concatenate(parts))


def erk_densities(
    params: PyTree, sparsity: float | int, *, matrices: MatricesOrRule | None = None
) -> PyTree:
    """Compute the share of weights that each matrix keeps by the ERK rule.

    Args:
      params: a tree of float arrays.
      sparsity: share of all weights to remove, in [0, 1).
      matrices: see `magnitude_mask`.

    Returns:
      The same tree with a number in (0, 1] at each matrix, 1.0 elsewhere.

    Raises:
      ValueError: see `magnitude_mask`.
    """
    chosen = choose_matrices(params, matrices)
    _count_removed(sparsity, 1)
    return chosen.place(_erk(chosen, 1 - sparsity), other=1.0)


def nm_mask(
    params: PyTree, *, keep: int, of: int, matrices: MatricesOrRule | None = None
) -> PyTree:
    """Keep the largest N of each M consecutive weights along the inputs.

    The authors' code calls the number of *removed* weights `prune_n`; here N is kept.

    Args:
      params: a tree of float arrays.
      keep: N, from 1 to M.
      of: M, which divides the number of inputs of every matrix.
      matrices: see `magnitude_mask`.

    Returns:
      The mask.

    Raises:
      ValueError: if N is out of range, M does not divide an axis, or there is no
        matrix.
    """
    if not 1 <= keep <= of:
        raise ValueError(f"keep={keep}: must lie in [1, {of}], the length of a group")
    chosen = choose_matrices(params, matrices)
    parts = []
    for path, leaf, axis in zip(chosen.paths, chosen.leaves, chosen.axes, strict=True):
        inputs_last: np.ndarray = np.moveaxis(read_magnitudes(leaf), axis, -1)
        if inputs_last.shape[-1] % of:
            raise ValueError(
                f"of={of}: does not divide the {inputs_last.shape[-1]} inputs of {path}"
            )
        groups = inputs_last.reshape(-1, of)
        order = np.argsort(groups, axis=-1, kind="stable")
        mask: np.ndarray = np.ones(groups.shape, bool)
        np.put_along_axis(mask, order[:, : of - keep], False, axis=-1)
        mask = np.moveaxis(mask.reshape(inputs_last.shape), -1, axis)
        parts.append(np.ravel(mask))
    return chosen.split(np.concatenate(parts))


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    """Set the weights that a mask removes to zero.

    Args:
      params: a tree of arrays.
      mask: the same tree of booleans or boolean arrays.

    Returns:
      The parameters; leaves that are kept whole are the same objects.
    """

    def zero(leaf: Any, kept: Any) -> Any:
        if kept is True:
            return leaf
        # Not a product: NaN x 0 is NaN, and -1 x 0 is -0.
        return jnp.where(kept, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(zero, params, mask)


def _count_removed(sparsity: float | int, n: int) -> int:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity}: must lie in [0, 1)")
    return round(sparsity * n)


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Mark exactly `count` smallest values of a flat array, of equal ones the first."""
    if not count:
        return np.zeros(values.shape, bool)
    border = np.partition(values, count - 1)[count - 1]
    below: np.ndarray = values < border
    ties = np.flatnonzero(values == border)[: count - np.count_nonzero(below)]
    below[ties] = True
    return below


def _draw(key: jax.Array, n: int) -> np.ndarray:
    return np.asarray(jax.random.uniform(key, (n,)))


def _erk(chosen: Chosen, density: float | int) -> list[float]:
    """Solve for the scale at which the densities, capped at 1, keep the right total."""
    sizes = np.array([np.size(leaf) for leaf in chosen.leaves], float)
    raw = np.array([(m + n) / (m * n) for m, n in chosen.fans])
    whole = np.zeros(len(sizes), bool)
    for _ in sizes:  # each round makes a matrix whole, or is the last
        left = density * sizes.sum() - sizes[whole].sum()
        scale = left / (raw * sizes)[~whole].sum()
        over = ~whole & (scale * raw > 1)
        if not over.any():
            break
        whole |= over
    found: list[float] = np.where(whole, 1.0, scale * raw).tolist()
    return found
