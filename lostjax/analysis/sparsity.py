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

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lostjax.optim.splitting.matrices import MatricesOrRule, match_matrices
from lostjax.trees import path_text
from lostjax.typing import PyTree


class NearZero(NamedTuple):
    """Weights of about zero."""

    near: int
    """Weights of absolute value at most the tolerance."""
    total: int
    """All weights that were looked at."""


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
    chosen = _choose(params, matrices)
    sizes = np.concatenate([np.ravel(_magnitudes(leaf)) for leaf in chosen.leaves])
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
    chosen = _choose(params, matrices)
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
    chosen = _choose(params, matrices)
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
    chosen = _choose(params, matrices)
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
    chosen = _choose(params, matrices)
    parts = []
    for path, leaf, axis in zip(chosen.paths, chosen.leaves, chosen.axes, strict=True):
        inputs_last: np.ndarray = np.moveaxis(_magnitudes(leaf), axis, -1)
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
        return jax.numpy.where(kept, leaf, jax.numpy.zeros_like(leaf))

    return jax.tree.map(zero, params, mask)


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
    chosen = _choose(params, matrices)
    near = (np.count_nonzero(_magnitudes(x) <= tolerance) for x in chosen.leaves)
    return NearZero(int(sum(near)), chosen.n_weights)


class _Chosen(NamedTuple):
    """The matrices of a tree."""

    structure: Any
    where: list[int]
    """Places of the matrices among the leaves."""
    leaves: list[Any]
    paths: list[str]
    axes: list[int]
    """The axis of each matrix along which its inputs lie."""
    fans: list[tuple[int, int]]
    """Inputs and outputs of each matrix."""

    @property
    def n_weights(self) -> int:
        return sum(int(np.size(leaf)) for leaf in self.leaves)

    @property
    def borders(self) -> np.ndarray:
        return np.cumsum([np.size(leaf) for leaf in self.leaves])[:-1]

    def pair(self, values: Sequence[Any]) -> zip:  # type: ignore[type-arg]
        return zip(values, self.leaves, strict=True)

    def place(self, values: Sequence[Any], *, other: Any = True) -> PyTree:
        """Make a tree of values at the matrices."""
        found = [other] * self.structure.num_leaves
        for place, value in zip(self.where, values, strict=True):
            found[place] = value
        return jax.tree.unflatten(self.structure, found)

    def split(self, flat: np.ndarray) -> PyTree:
        """Cut one flat mask into the masks of the matrices, each where its leaf is."""
        parts = np.split(flat, self.borders)
        return self.place([_lay(part, leaf) for part, leaf in self.pair(parts)])


def _choose(params: PyTree, matrices: MatricesOrRule | None) -> _Chosen:
    leaves = jax.tree.leaves_with_path(params)
    labels = match_matrices(params, matrices)
    found = {place: label for place, label in enumerate(labels) if label is not None}
    where = list(found)
    if not where:
        raise ValueError("params: holds no matrix; matrices= says which arrays are")
    axes, fans = [], []
    for place in where:
        path, leaf = leaves[place]
        shape, numbers = np.shape(leaf), found[place]
        if not np.issubdtype(np.result_type(_probe(leaf), np.float32), np.floating):
            raise ValueError(f"{path_text(path)}: {leaf.dtype}: only real weights")
        inputs, outputs = (
            (axis,) if isinstance(axis, int) else tuple(axis)
            for axis in (numbers.reduction_axis, numbers.output_axis)
        )
        axes.append(inputs[-1])
        fans.append(
            (
                int(np.prod([shape[axis] for axis in inputs])),
                int(np.prod([shape[axis] for axis in outputs])),
            )
        )
    return _Chosen(
        jax.tree.structure(params),
        where,
        [leaves[place][1] for place in where],
        [path_text(leaves[place][0]) for place in where],
        axes,
        fans,
    )


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


def _magnitudes(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    # NumPy cannot partition bfloat16.
    sizes: np.ndarray = np.abs(array.astype(np.result_type(_probe(array), np.float32)))
    sizes[np.isnan(sizes)] = np.inf  # NaN compares as unequal to itself
    return sizes


def _probe(leaf: Any) -> np.dtype:
    dtype = np.asarray(leaf).dtype
    # bfloat16 and the float8 types promote to float32 exactly.
    return np.dtype(np.float32) if dtype.kind == "V" else dtype


def _draw(key: jax.Array, n: int) -> np.ndarray:
    return np.asarray(jax.random.uniform(key, (n,)))


def _erk(chosen: _Chosen, density: float | int) -> list[float]:
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


def _lay(flat: np.ndarray, leaf: Any) -> Any:
    mask = flat.reshape(np.shape(leaf))
    if isinstance(leaf, jax.Array):
        return jax.device_put(mask, leaf.sharding)
    return mask


def _mask_arrays(mask: PyTree) -> list[np.ndarray]:
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]
    return [array for array in arrays if array.ndim]
