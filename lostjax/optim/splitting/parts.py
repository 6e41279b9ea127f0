"""Partition of a tree's arrays into matrices that are split and all others.

These are the working parts of `optim.splitting.transform`. They record how each leaf is
cut and which leaves refresh together, and build trees with `optax.MaskedNode` in the
place of excluded leaves, as `optax.masked` does.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.optim.splitting.matrices import (
    MatricesOrRule,
    MatrixView,
    match_matrices,
    view_matrices,
)
from lostjax.optim.splitting.refresh import Carries, Tick
from lostjax.optim.splitting.subspace import Basis, Cut, Draw, Subspace
from lostjax.trees import path_text
from lostjax.typing import PyTree


class Piece(NamedTuple):
    """The gradient of a matrix at one update, cut in two."""

    kept: jax.Array
    """The part with state, reduced, with the rank of the leaf."""
    rest: jax.Array
    """The part without state, in the shape of the leaf."""
    basis: Basis
    """Basis of the subspace; with the rank of the leaf if it is stored."""
    carries: Carries
    """Functions that move moments from the previous subspace to this one."""


class Matrix(NamedTuple):
    """A leaf that is split."""

    number: int
    """A hash of the leaf's path, which makes random choices differ between leaves."""
    view: MatrixView
    cut: Cut
    stored: bool
    """Whether its basis is part of the state."""

    def start(self, leaf: Any, *, seed: Any) -> tuple[jax.Array, Basis]:
        """Build zeros in the shape of the kept part and, if stored, of the basis."""
        zeros = self.view.to_matrices(jnp.zeros_like(leaf))
        draw = Draw(seed, self.number, 0)
        # Only shapes are needed: init must not compute an SVD.
        shapes = jax.eval_shape(lambda g: self.cut.choose(g, draw), zeros)
        basis = jax.tree.map(
            # eval_shape keeps the sharding of explicit meshes; plain zeros would lose
            # it.
            lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding),
            shapes,
        )
        # Restrict real zeros instead of building a shape, so that sharding carries
        # over.
        kept = jnp.zeros_like(self.view.to_state(self.cut.restrict(zeros, basis)))
        return kept, self.view.to_state(basis) if self.stored else ()

    def split(self, grad: Any, *, seed: Any, tick: Tick, old: Basis) -> Piece:
        """Cut a gradient with the subspace of this update.

        Args:
          grad: gradient in the shape of the leaf.
          seed: seed of random choices.
          tick: tick of the leaf's group.
          old: the basis stored so far, if the basis is stored.

        Returns:
          The piece.
        """
        cut, view = self.cut, self.view
        g = view.to_matrices(grad)

        def choose(refresh: jax.Array) -> Basis:
            return cut.choose(g, Draw(seed, self.number, refresh))

        def choose_stored() -> jax.Array:
            return view.to_state(choose(tick.refresh))

        if self.stored:
            # cond, not where: the SVD must run only when a refresh is due.
            saved = jax.lax.cond(tick.due, choose_stored, lambda: old)
            basis = view.from_state(saved)
        else:
            saved = basis = choose(tick.refresh)

        def choose_old() -> Basis:
            # A choice that is not stored is recomputed from its index: it costs no
            # memory.
            return view.from_state(old) if self.stored else choose(tick.before)

        def carry_moments(moments: jax.Array) -> jax.Array:
            full = cut.expand(view.from_state(moments), choose_old())
            return view.to_state(cut.restrict(full, basis))

        def carry_squares(squares: jax.Array) -> jax.Array:
            part = view.from_state(squares)
            return view.to_state(cut.carry_squares(part, choose_old(), basis))

        part = cut.restrict(g, basis)
        kept = view.to_state(part)
        # Reshapes of merged axes may drop the sharding of the gradient: restore it.
        rest = place_like(view.from_matrices(cut.residual(g, part, basis)), grad)
        carries = Carries(kept.shape, carry_moments, carry_squares)
        return Piece(kept, rest, saved, carries)

    def restrict(self, leaf: jax.Array, piece: Piece) -> jax.Array:
        """Cut an array of the leaf's shape to the part that a piece keeps."""
        whole = self.view.to_matrices(leaf)
        return self.view.to_state(self.cut.restrict(whole, self._basis(piece)))

    def expand(self, kept: jax.Array, piece: Piece) -> jax.Array:
        """Expand a kept part to the leaf's shape and type, with zeros elsewhere."""
        full = self.cut.expand(self.view.from_state(kept), self._basis(piece))
        back = self.view.from_matrices(full).astype(piece.rest.dtype)
        return place_like(back, piece.rest)

    def _basis(self, piece: Piece) -> Basis:
        return self.view.from_state(piece.basis) if self.stored else piece.basis


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
            cut = _choose_cut(subspace, view.matrix_shape, density)
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


def explicit_sharding(x: jax.Array) -> Any:
    """Return an array's sharding if its mesh has explicit axes, else None."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    names = getattr(sharding, "spec", ())
    return sharding if any(name is not None for name in names) else None


def place_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shard an array like another of its shape, on meshes with explicit axes."""
    mine, theirs = explicit_sharding(x), explicit_sharding(like)
    return x if mine == theirs else jax.sharding.reshard(x, jax.typeof(like).sharding)


def _read_leaves(tree: PyTree) -> tuple[list[str], list[Any]]:
    names, leaves = [], []
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = path_text(path) or "the array"
        # Python numbers have no dtype to check.
        leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params: {name} is of type {leaf.dtype}: only real floating-point "
                "arrays can be optimised; exclude others with optax.masked"
            )
        names.append(name)
        leaves.append(leaf)
    return names, leaves


def _choose_cut(subspace: Subspace, shape: Sequence[int], density: float) -> Cut:
    """Build the cut of a shape; at density 1 everything is kept without a basis."""
    if density < 1:
        # At density 0 the cut is only checked against the shape and never used.
        return subspace.cut(tuple(shape), density or 1 / max(shape))
    return Cut(
        choose=lambda g, draw: (),
        restrict=lambda g, basis: g,
        expand=lambda kept, basis: kept,
        residual=lambda g, kept, basis: jnp.zeros_like(g),
        carry_squares=lambda kept, old, new: kept,
    )
