"""Partition of a tree's arrays into matrices that are split and all others.

`SplitTree` records which leaves are cut and which of them refresh together, for
`optim.splitting.transform`, and builds trees with `optax.MaskedNode` in the place of
excluded leaves, as `optax.masked` does.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.optim.splitting.cuts.pieces import Matrix, choose_cut
from lostjax.optim.splitting.cuts.views import view_matrices
from lostjax.optim.splitting.matrices import MatricesOrRule, match_matrices
from lostjax.optim.splitting.subspace import Subspace
from lostjax.trees import path_text
from lostjax.typing import PyTree


class SplitTree(NamedTuple):
    """The leaves of a tree and the split ones among them, all by index of the leaf."""

    structure: Any
    leaves: list[Any]
    matrices: dict[int, Matrix]
    groups: list[dict[int, Matrix]]
    """Matrices that keep a part, grouped by time of refresh; empty at density 0."""
    stores: bool
    """Whether bases are part of the state."""

    @property
    def rest(self) -> list[int]:
        """Indices of leaves that are not split."""
        return [i for i in range(len(self.leaves)) if i not in self.matrices]

    def pick(self, indices: Iterable[int]) -> dict[int, Any]:
        """Return some leaves by index."""
        return {i: self.leaves[i] for i in indices}

    def build(self, values: Mapping[int, Any]) -> PyTree:
        """Build a tree from values by index, with masked nodes for missing ones."""
        masked = optax.MaskedNode()
        leaves = [values.get(i, masked) for i in range(len(self.leaves))]
        return self.structure.unflatten(leaves)

    def read(self, tree: PyTree, indices: Iterable[int]) -> dict[int, Any]:
        """Return some values of a tree by index; the inverse of `build`."""
        values = self.structure.flatten_up_to(tree)
        return {i: values[i] for i in indices}

    def step(
        self,
        tx: optax.GradientTransformationExtraArgs,
        values: Mapping[int, Any],
        state: optax.OptState,
        *,
        params: Mapping[int, Any] | None = None,
        extra: dict[str, Any],
    ) -> tuple[dict[int, jax.Array], optax.OptState]:
        """Update some leaves with a transformation; all others are masked."""
        known = None if params is None else self.build(params)
        moved, state = tx.update(self.build(values), state, known, **extra)
        steps = self.read(moved, values)
        # A first moment of a wider type (`mu_dtype`) would widen the updates.
        return {i: steps[i].astype(values[i].dtype) for i in steps}, state


def split_tree(
    tree: PyTree,
    subspace: Subspace,
    *,
    density: float,
    matrices: MatricesOrRule | None,
) -> SplitTree:
    """Partition the leaves of a tree.

    Args:
      tree: a tree of arrays or of `jax.ShapeDtypeStruct`.
      subspace: the rule that cuts matrices.
      density: share of each matrix to keep, in [0, 1].
      matrices: see `MatricesOrRule`; None for `find_matrices`.

    Returns:
      The partition.

    Raises:
      ValueError: if a leaf is not of a real float type, or its dimension numbers or the
        subspace do not fit it; the message names the leaf.
    """
    names, leaves = _read_leaves(tree)
    stores = subspace.stored and 0 < density < 1
    split: dict[int, Matrix] = {}
    groups: list[dict[int, Matrix]] = [{} for _ in range(subspace.stagger)]
    for i, numbers in enumerate(match_matrices(tree, matrices)):
        if numbers is None:
            continue
        view = view_matrices(leaves[i].shape, numbers, name=names[i])
        try:
            cut = choose_cut(subspace, view.matrix_shape, density)
        except ValueError as error:
            raise ValueError(f"subspace: {names[i]}: {error}") from None
        # crc32 and not hash(): Python salts the hash of strings, so hosts would differ.
        matrix = Matrix(zlib.crc32(names[i].encode()), view, cut, stores)
        # Round robin in order of leaves: groups of nearly equal cost.
        groups[len(split) % len(groups)][i] = matrix
        split[i] = matrix
    return SplitTree(
        structure=jax.tree.structure(tree),
        leaves=leaves,
        matrices=split,
        groups=groups if density else [],
        stores=stores,
    )


def _read_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
    names, leaves = [], []
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = path_text(path) or "the array"
        if isinstance(leaf, (bool, int, float)):
            leaf = jnp.asarray(leaf)
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"params: {name} is {leaf!r}, not an array; pass the arrays of a model "
                "alone: eqx.filter(model, eqx.is_inexact_array) in equinox, "
                "nnx.state(model, nnx.Param) in flax"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params: {name} is of type {leaf.dtype}: only real floating-point "
                f"arrays can be optimised; {_way_out(tree)}"
            )
        names.append(name)
        leaves.append(leaf)
    return names, leaves


def _way_out(tree: PyTree) -> str:
    """Write what to pass instead of a tree with arrays that are not optimised."""
    if isinstance(tree, Mapping) and "params" in tree:
        return (
            "these are all variables of a model: pass variables['params'], and "
            "{**variables, 'params': params} to model.apply"
        )
    return "exclude others with optax.masked"
