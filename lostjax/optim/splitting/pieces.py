"""A matrix that is split, and its gradient cut in two pieces at each update.

    kept = restrict(g)          rest = g - expand(kept)

The working parts of `optim.splitting.transform` for one leaf: `Matrix` chooses or
restores the basis of its subspace, cuts arrays with it and expands them again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.splitting.refresh import Carries, Tick
from lostjax.optim.splitting.subspace import Basis, Cut, Draw, Subspace
from lostjax.optim.splitting.views import MatrixView, place_like


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


def choose_cut(subspace: Subspace, shape: Sequence[int], density: float) -> Cut:
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
