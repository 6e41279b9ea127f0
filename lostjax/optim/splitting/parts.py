"""A tree of arrays, sorted into matrices that are split and the rest.

The working parts of `optim.splitting.transform`: which leaf is cut how and refreshes
with which others, and trees with `optax.MaskedNode` where a leaf is not meant, as
`optax.masked` makes them.
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
    """A matrix's gradient at one update, cut in two."""

    kept: jax.Array
    """The part with a state, reduced, in the rank of the leaf."""
    rest: jax.Array
    """The part without, in the leaf's shape."""
    basis: Basis
    """Of the subspace; in the rank of the leaf where it is stored."""
    carries: Carries
    """How moments move from the subspace before to this one."""


class Matrix(NamedTuple):
    """A leaf that is split."""

    number: int
    """Made from the leaf's path, for random choices."""
    view: MatrixView
    cut: Cut
    stored: bool
    """Whether its basis is state."""

    def start(self, leaf: Any, *, seed: Any) -> tuple[jax.Array, Basis]:
        """Make zeros in the shape of the kept part and, where stored, of the basis."""
        zeros = self.view.to_matrices(jnp.zeros_like(leaf))
        draw = Draw(seed, self.number, 0)
        shapes = jax.eval_shape(lambda g: self.cut.choose(g, draw), zeros)
        basis = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding), shapes
        )
        kept = jnp.zeros_like(self.view.to_state(self.cut.restrict(zeros, basis)))
        return kept, self.view.to_state(basis) if self.stored else ()

    def split(self, grad: Any, *, seed: Any, tick: Tick, old: Basis) -> Piece:
        """Cut a gradient by the subspace of this update.

        Args:
          grad: in the leaf's shape.
          seed: of random choices.
          tick: of the leaf's group.
          old: the stored basis until now, if there is one.

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
            saved = jax.lax.cond(tick.due, choose_stored, lambda: old)
            basis = view.from_state(saved)
        else:
            saved = basis = choose(tick.refresh)

        def choose_old() -> Basis:
            return view.from_state(old) if self.stored else choose(tick.before)

        def carry_moments(moments: jax.Array) -> jax.Array:
            full = cut.expand(view.from_state(moments), choose_old())
            return view.to_state(cut.restrict(full, basis))

        def carry_squares(squares: jax.Array) -> jax.Array:
            part = view.from_state(squares)
            return view.to_state(cut.carry_squares(part, choose_old(), basis))

        part = cut.restrict(g, basis)
        kept = view.to_state(part)
        rest = place_like(view.from_matrices(cut.residual(g, part, basis)), grad)
        carries = Carries(kept.shape, carry_moments, carry_squares)
        return Piece(kept, rest, saved, carries)

    def restrict(self, leaf: jax.Array, piece: Piece) -> jax.Array:
        """Take from an array of the leaf's shape the part that a piece keeps."""
        whole = self.view.to_matrices(leaf)
        return self.view.to_state(self.cut.restrict(whole, self._basis(piece)))

    def expand(self, kept: jax.Array, piece: Piece) -> jax.Array:
        """Put a kept part back into the leaf's shape and type, zero elsewhere."""
        full = self.cut.expand(self.view.from_state(kept), self._basis(piece))
        back = self.view.from_matrices(full).astype(piece.rest.dtype)
        return place_like(back, piece.rest)

    def _basis(self, piece: Piece) -> Basis:
        return self.view.from_state(piece.basis) if self.stored else piece.basis


class SplitTree(NamedTuple):
    """The leaves of a tree, and which of them are split; all by index of the leaf."""

    structure: Any
    leaves: list[Any]
    matrices: dict[int, Matrix]
    groups: list[dict[int, Matrix]]
    """Matrices that keep a part, by when they refresh; none at density 0."""
    stores: bool
    """Whether bases are state."""

    @property
    def rest(self) -> list[int]:
        """Leaves that are not split."""
        return [i for i in range(len(self.leaves)) if i not in self.matrices]

    def pick(self, indices: Iterable[int]) -> dict[int, Any]:
        """Take some leaves."""
        return {i: self.leaves[i] for i in indices}

    def build(self, values: Mapping[int, Any]) -> PyTree:
        """Make a tree of values, masked where there is none."""
        masked = optax.MaskedNode()
        leaves = [values.get(i, masked) for i in range(len(self.leaves))]
        return self.structure.unflatten(leaves)

    def read(self, tree: PyTree, indices: Iterable[int]) -> dict[int, Any]:
        """Undo `build` for some leaves."""
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
        """Update some leaves by a transformation that sees no others."""
        known = None if params is None else self.build(params)
        moved, state = tx.update(self.build(values), state, known, **extra)
        steps = self.read(moved, values)
        # A first moment of another type would widen them.
        return {i: steps[i].astype(values[i].dtype) for i in steps}, state


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
        name = path_text(path) or "the array"
        leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params: {name} is of type {leaf.dtype}: only real floating-point "
                "arrays can be optimised; leave others out by optax.masked"
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
