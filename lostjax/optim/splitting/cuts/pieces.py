"""A matrix that is split, and its gradient cut in two pieces at each update.

    kept = restrict(g)          rest = g - expand(kept)

The working parts of `optim.splitting.transform` for one leaf: `Matrix` chooses or
restores the basis of its subspace, cuts arrays with it and expands them again.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.splitting.cuts.views import MatrixView
from lostjax.optim.splitting.placement import (
    Spec,
    explicit_spec,
    fit_spec,
    make_zeros,
    place,
    zero_of,
)
from lostjax.optim.splitting.refresh import Carries
from lostjax.optim.splitting.subspace import Basis, Cut, Draw, Subspace


class Layout(NamedTuple):
    """Shapes and, on meshes with explicit axes, shardings of a matrix's parts."""

    view: MatrixView
    leaf: Spec | None
    """Spec of the leaf, which its state follows."""
    part: Spec | None
    """Spec of the kept part while it is cut or expanded."""

    def to_state(self, part: jax.Array) -> jax.Array:
        """Convert a kept part (*batch, m, n) to the axes and the sharding of state."""
        x = self.view.to_state(part)
        if self.leaf is None:
            return x
        # The mesh of the part: `place` needs sizes only if the leaf is sharded.
        sizes = jax.typeof(part).sharding.mesh.shape
        return place(x, fit_spec(self.leaf, x.shape, sizes))

    def from_state(self, x: jax.Array) -> jax.Array:
        """Undo `to_state`."""
        return place(self.view.from_state(x), self.part)


class Piece(NamedTuple):
    """The gradient of a matrix at one update, cut in two."""

    kept: jax.Array
    """The part with state, reduced, with the rank of the leaf."""
    rest: jax.Array
    """The part without state, in the shape of the leaf."""
    basis: Basis
    """Basis of the subspace, as the cut uses it."""
    saved: Basis
    """Basis as state, with the rank of the leaf; () if it is not stored."""
    layout: Layout
    """Conversion of kept parts to and from state."""
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

    def start(self, leaf: Any, *, draw: Draw) -> tuple[jax.Array, Basis]:
        """Build zeros in the shape of the kept part and, if stored, of the basis."""
        view = self.view
        like = jax.ShapeDtypeStruct(view.matrix_shape, leaf.dtype)
        # Only shapes are needed: init must not compute an SVD.
        shapes = jax.eval_shape(
            lambda g: self.cut.choose(g, draw.at_leaf(self.number)), like
        )
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        part = jax.eval_shape(
            lambda g: view.to_state(self.cut.restrict(g, empty)), like
        )
        kept = make_zeros(leaf, part.shape, part.dtype)
        if kept is None:
            zeros = zero_of(leaf)
            kept = view.to_state(self.cut.restrict(view.to_matrices(zeros), empty))
        if not self.stored:
            return kept, ()
        shape = jax.eval_shape(view.to_state, shapes).shape
        basis = make_zeros(leaf, shape, shapes.dtype)
        if basis is None:
            basis = jax.lax.slice(zero_of(leaf), (0,) * len(shape), shape)
            basis = basis.astype(shapes.dtype)
        return kept, basis

    def split(
        self,
        grad: Any,
        *,
        draw: Draw,
        before: Callable[[], Draw],
        due: jax.Array,
        old: Basis,
    ) -> Piece:
        """Cut a gradient with the subspace of this update.

        Args:
          grad: gradient in the shape of the leaf.
          draw: inputs of the present choice.
          before: returns the inputs of the choice before the last refresh.
          due: whether the subspace is redrawn at this update.
          old: the basis stored so far, if the basis is stored.

        Returns:
          The piece.
        """
        cut, view = self.cut, self.view
        g = view.to_matrices(grad)
        # A basis is multiplied with whole matrices: only its batch axes are sharded.
        batch = [*(explicit_spec(g) or ())][: g.ndim - 2]
        at = Layout(view, explicit_spec(grad), jax.P(*batch) if any(batch) else None)

        def choose(draw: Draw) -> Basis:
            return cut.choose(g, draw.at_leaf(self.number, table=draw.table))

        def choose_stored() -> jax.Array:
            new = cut.align(choose(draw), at.from_state(old))
            return at.to_state(new)

        if self.stored:
            # cond, not where: the SVD must run only when a refresh is due.
            saved = jax.lax.cond(due, choose_stored, lambda: old)
            basis = at.from_state(saved)
        else:
            saved, basis = (), choose(draw)

        def choose_old() -> Basis:
            # A choice that is not stored is recomputed from its index: it costs no
            # memory.
            return at.from_state(old) if self.stored else choose(before())

        part = cut.restrict(g, basis)
        layout = at._replace(part=explicit_spec(part))

        def carry_moments(moments: jax.Array) -> jax.Array:
            full = cut.expand(layout.from_state(moments), choose_old())
            return layout.to_state(cut.restrict(full, basis))

        def carry_squares(squares: jax.Array) -> jax.Array:
            moved = cut.carry_squares(layout.from_state(squares), choose_old(), basis)
            return layout.to_state(moved)

        kept = layout.to_state(part)
        # Reshapes of merged axes may drop the sharding of the gradient: restore it.
        rest = place(view.from_matrices(cut.residual(g, part, basis)), layout.leaf)
        carries = Carries(kept.shape, carry_moments, carry_squares)
        return Piece(kept, rest, basis, saved, layout, carries)

    def restrict(self, leaf: jax.Array, piece: Piece) -> jax.Array:
        """Cut an array of the leaf's shape to the part that a piece keeps."""
        whole = self.view.to_matrices(leaf)
        return piece.layout.to_state(self.cut.restrict(whole, piece.basis))

    def join(
        self, kept: jax.Array, piece: Piece, *, free: jax.Array | None
    ) -> jax.Array:
        """Add the steps of both parts; None for no step of the part without state."""
        layout, dtype = piece.layout, piece.rest.dtype
        kept = layout.from_state(kept)
        # If shards are visible, each part may have moved them to another axis.
        is_plain = layout.leaf is None and layout.part is None
        if free is not None and self.cut.combine is not None and is_plain:
            whole = self.view.to_matrices(free)
            full = self.cut.combine(kept.astype(dtype), whole, piece.basis)
            return place(self.view.from_matrices(full), layout.leaf)
        full = self.cut.expand(kept, piece.basis)
        back = place(self.view.from_matrices(full).astype(dtype), layout.leaf)
        return back if free is None else back + free


@functools.lru_cache(maxsize=256)
def choose_cut(subspace: Subspace, shape: tuple[int, ...], density: float) -> Cut:
    """Build the cut of a shape; at density 1 everything is kept without a basis.

    Leaves of one shape share the cut, and each of its functions is traced once.
    """
    if density < 1:
        # At density 0 the cut is only checked against the shape and never used.
        cut = subspace.cut(shape, density or 1 / max(shape))
        return Cut(
            choose=jax.jit(cut.choose),
            restrict=jax.jit(cut.restrict),
            expand=jax.jit(cut.expand),
            residual=jax.jit(cut.residual),
            combine=None if cut.combine is None else jax.jit(cut.combine),
            carry_squares=jax.jit(cut.carry_squares),
            table=cut.table,
            align=jax.jit(cut.align),
        )
    return Cut(
        choose=lambda g, draw: (),
        restrict=lambda g, basis: g,
        expand=lambda kept, basis: kept,
        residual=lambda g, kept, basis: jnp.zeros_like(g),
        carry_squares=lambda kept, old, new: kept,
    )
