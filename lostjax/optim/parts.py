"""A tree of arrays, sorted into matrices that are split and the rest.

The working parts of `optim.splitting`: which leaf is cut how, when its group refreshes,
and trees with `optax.MaskedNode` where a leaf is not meant, as `optax.masked` makes
them.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.optim.matrices import (
    MatricesOrRule,
    MatrixView,
    match_matrices,
    name_leaf,
    view_matrices,
)
from lostjax.optim.refresh import Carries
from lostjax.optim.subspace import Basis, Cut, Draw, Subspace
from lostjax.typing import PyTree


class Clock(NamedTuple):
    """Where a group of matrices is between two refreshes."""

    due: jax.Array
    """Whether it refreshes at this update; true at the first."""
    is_first: jax.Array
    """Whether this is the first update of all."""
    refresh: jax.Array
    """Index of the current subspace, from 0."""


def read_clocks(count: jax.Array, gap: jax.Array | int, n_groups: int) -> list[Clock]:
    """Give each group its clock; groups are set off by even parts of the gap."""
    clocks = []
    for group in range(n_groups):
        shifted = count + group * gap // n_groups
        is_first = count == 0
        due = is_first | (shifted % gap == 0)
        clocks.append(Clock(due, is_first, shifted // gap))
    return clocks


class Matrix(NamedTuple):
    """A leaf that is split."""

    number: int
    """Made from the leaf's path, for random choices."""
    view: MatrixView
    cut: Cut
    stored: bool
    """Whether its basis is state."""

    def first_basis(self, grad: jax.Array, *, seed: Any) -> Basis:
        """Make a basis to shape the first state with: zeros, where it is stored."""
        g, draw = self.view.to_matrices(grad), Draw(seed, self.number, 0)
        if not self.stored:
            return self.cut.choose(g, draw)
        shape = jax.eval_shape(lambda g: self.cut.choose(g, draw), g)
        return jnp.zeros_like(shape, out_sharding=shape.sharding)

    def basis(self, grad: jax.Array, *, seed: Any, clock: Clock, old: Basis) -> Basis:
        """Give the basis of this update."""
        g = self.view.to_matrices(grad)
        draw = Draw(seed, self.number, clock.refresh)
        if not self.stored:
            return self.cut.choose(g, draw)
        return jax.lax.cond(clock.due, lambda: self.cut.choose(g, draw), lambda: old)

    def restrict(self, grad: jax.Array, basis: Basis) -> jax.Array:
        """Take the kept part of a gradient, in the rank of the leaf."""
        kept = self.cut.restrict(self.view.to_matrices(grad), basis)
        return self.view.to_state(kept)

    def expand(self, kept: jax.Array, basis: Basis, *, like: jax.Array) -> jax.Array:
        """Put a kept part back into the leaf's shape and type."""
        full = self.cut.expand(self.view.from_state(kept), basis)
        return place_like(self.view.from_matrices(full).astype(like.dtype), like)

    def residual(self, grad: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        """Take what is not kept of a gradient."""
        g, part = self.view.to_matrices(grad), self.view.from_state(kept)
        rest = self.cut.residual(g, part, basis)
        return place_like(self.view.from_matrices(rest), grad)

    def carries(
        self, grad: jax.Array, new: Basis, *, seed: Any, clock: Clock, old: Basis
    ) -> Carries:
        """Say how this leaf's moments move from the subspace before to this one."""
        cut, view = self.cut, self.view
        before = Draw(seed, self.number, clock.refresh - 1)

        def old_basis() -> Basis:
            if self.stored:
                return old
            return cut.choose(view.to_matrices(grad), before)

        def moments(kept: jax.Array) -> jax.Array:
            full = cut.expand(view.from_state(kept), old_basis())
            return view.to_state(cut.restrict(full, new))

        def squares(kept: jax.Array) -> jax.Array:
            part = cut.carry_squares(view.from_state(kept), old_basis(), new)
            return view.to_state(part)

        return Carries(moments, squares)


class SplitTree(NamedTuple):
    """The leaves of a tree, and which of them are split; all by index of the leaf."""

    structure: Any
    leaves: list[jax.Array]
    matrices: dict[int, Matrix]
    groups: list[dict[int, Matrix]]
    """Matrices that keep a part, by when they refresh; none at density 0."""
    stores: bool
    """Whether bases are state."""

    @property
    def rest(self) -> list[int]:
        """Leaves that are not split."""
        return [i for i in range(len(self.leaves)) if i not in self.matrices]

    def build(self, values: Mapping[int, Any]) -> PyTree:
        """Make a tree of values, masked where there is none."""
        masked = optax.MaskedNode()
        leaves = [values.get(i, masked) for i in range(len(self.leaves))]
        return self.structure.unflatten(leaves)

    def read(self, tree: PyTree, indices: Iterable[int]) -> dict[int, Any]:
        """Undo `build` for some leaves."""
        values = self.structure.flatten_up_to(tree)
        return {i: values[i] for i in indices}


def split_tree(
    tree: PyTree,
    subspace: Subspace,
    *,
    density: float,
    matrices: MatricesOrRule | None,
) -> SplitTree:
    """Sort a tree's leaves.

    Raises:
      ValueError: naming the leaf, where it is not of a real float type, or its
        dimension numbers or the subspace do not fit it.
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
            cut = _choose_cut(subspace, view.matrix_shape, density)
        except ValueError as error:
            raise ValueError(f"subspace: {names[i]}: {error}") from None
        matrix = Matrix(zlib.crc32(names[i].encode()), view, cut, stores)
        groups[len(split) % len(groups)][i] = matrix
        split[i] = matrix
    return SplitTree(
        structure=jax.tree.structure(tree),
        leaves=leaves,
        matrices=split,
        groups=groups if density else [],
        stores=stores,
    )


def explicit_sharding(x: jax.Array) -> Any:
    """Give an array's sharding where its mesh has explicit axes, else None."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    names = getattr(sharding, "spec", ())
    return sharding if any(name is not None for name in names) else None


def place_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Lay an array as another of its shape lies, on meshes with explicit axes."""
    mine, theirs = explicit_sharding(x), explicit_sharding(like)
    return x if mine == theirs else jax.sharding.reshard(x, jax.typeof(like).sharding)


def _read_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
    names, leaves = [], []
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = name_leaf(path) or "the array"
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} is of type {leaf.dtype}: only real floating-point arrays can "
                "be optimised; leave others out by optax.masked"
            )
        names.append(name)
        leaves.append(leaf)
    return names, leaves


def _choose_cut(subspace: Subspace, shape: Sequence[int], density: float) -> Cut:
    """Cut a shape; at density 1 the kept part is all, and no basis is needed."""
    if density < 1:
        return subspace.cut(tuple(shape), density or 1 / max(shape))
    return Cut(
        choose=lambda g, draw: (),
        restrict=lambda g, basis: g,
        expand=lambda kept, basis: kept,
        residual=lambda g, kept, basis: jnp.zeros_like(g),
        carry_squares=lambda kept, old, new: kept,
    )
