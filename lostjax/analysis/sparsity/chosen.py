"""The matrices of a tree of parameters, read on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lostjax.optim.splitting.matrices import MatricesOrRule, match_matrices
from lostjax.trees import path_text
from lostjax.typing import PyTree


class Chosen(NamedTuple):
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
        """Weights of all matrices."""
        return sum(int(np.size(leaf)) for leaf in self.leaves)

    @property
    def borders(self) -> np.ndarray:
        """Places at which a flat array of all weights is cut."""
        return np.cumsum([np.size(leaf) for leaf in self.leaves])[:-1]

    def pair(self, values: Sequence[Any]) -> zip:  # type: ignore[type-arg]
        """Pair values with the matrices."""
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


def choose_matrices(params: PyTree, matrices: MatricesOrRule | None) -> Chosen:
    """Find the matrices among the leaves of a tree.

    Raises:
      ValueError: if there is none, or one is not of real numbers.
    """
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
    return Chosen(
        jax.tree.structure(params),
        where,
        [leaves[place][1] for place in where],
        [path_text(leaves[place][0]) for place in where],
        axes,
        fans,
    )


def read_magnitudes(leaf: Any) -> np.ndarray:
    """Return the absolute values of an array in a type that NumPy sorts; NaN is inf."""
    array = np.asarray(leaf)
    # NumPy cannot partition bfloat16.
    sizes: np.ndarray = np.abs(array.astype(np.result_type(_probe(array), np.float32)))
    sizes[np.isnan(sizes)] = np.inf  # NaN compares as unequal to itself
    return sizes


def _probe(leaf: Any) -> np.dtype:
    dtype = np.asarray(leaf).dtype
    # bfloat16 and the float8 types promote to float32 exactly.
    return np.dtype(np.float32) if dtype.kind == "V" else dtype


def _lay(flat: np.ndarray, leaf: Any) -> Any:
    mask = flat.reshape(np.shape(leaf))
    if isinstance(leaf, jax.Array):
        return jax.device_put(mask, leaf.sharding)
    return mask
