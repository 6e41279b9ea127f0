"""Subspaces by strata: one column, row or entry of every few.

An axis of size n is divided into k = round(density n) strata of neighbours, equally
long but for one entry, and each keeps one entry, drawn anew at every refresh. Against
a random permutation this needs no sort, leaves entries in order, and cuts by masks
instead of gathers: it fuses into the optimiser's own pass over the gradient, and stays
on the device that holds the stratum where an axis is sharded. Each entry is kept as
often as any other; neighbours are never kept together.

FRUGAL (Zmushko et al., 2024, arXiv:2411.07837) draws permutations.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.subspace import Cut, Draw, Subspace, count_kept, unshard_axis

Masks = tuple[jax.Array, ...]


def columns() -> Subspace:
    """Keep outputs: random columns of each (M, N) matrix, moments (M, k).

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, shared=True))


def rows() -> Subspace:
    """Keep inputs: random rows of each (M, N) matrix, moments (k, N).

    Returns:
      The subspace, with k = max(1, round(density M)).
    """
    return Subspace(partial(_cut, axis=-2, shared=True))


def coordinates() -> Subspace:
    """Keep random entries, k in each row of each (M, N) matrix, moments (M, k).

    Draws M k random numbers a step where `columns` draws k.

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, shared=False))


class _Segment(NamedTuple):
    """Neighbouring strata of one length."""

    start: int
    n_strata: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.n_strata * self.length


class _Strata(NamedTuple):
    """An axis of a stack of matrices, divided."""

    shape: tuple[int, ...]
    axis: int
    """Counted from the front."""
    segments: tuple[_Segment, ...]
    """One, or two where k does not divide the axis."""
    shared: bool
    """Whether the matrix's other axis shares one choice."""

    def draw_masks(self, draw: Draw) -> Masks:
        """Mark the kept entry of every stratum, (.., strata, length, ..)."""
        keys = jax.random.split(draw.key(), len(self.segments))
        n_after = len(self.shape) - self.axis - 1
        masks = []
        for key, segment in zip(keys, self.segments, strict=True):
            shape = list(self.shape)
            if self.shared:
                shape[-2:] = 1, 1
            shape[self.axis] = segment.n_strata
            chosen = jax.random.randint(key, shape, 0, segment.length)
            places = jnp.arange(segment.length).reshape(-1, *(1,) * n_after)
            masks.append(jnp.expand_dims(chosen, self.axis + 1) == places)
        return tuple(masks)

    def split(self, x: jax.Array) -> list[jax.Array]:
        """View as strata: (.., n, ..) -> (.., strata, length, ..) of each segment."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        if len(self.segments) == 1:
            (segment,) = self.segments
            x = unshard_axis(x, self.axis, parts=segment.n_strata)
            return [x.reshape(*lead, segment.n_strata, segment.length, *trail)]
        x = unshard_axis(x, self.axis, parts=1)
        return [
            jax.lax.slice_in_dim(x, part.start, part.stop, axis=self.axis).reshape(
                *lead, part.n_strata, part.length, *trail
            )
            for part in self.segments
        ]

    def join(self, pieces: list[jax.Array]) -> jax.Array:
        """Undo `split`."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return self.connect([piece.reshape(*lead, -1, *trail) for piece in pieces])

    def connect(self, parts: list[jax.Array]) -> jax.Array:
        """Lay the segments' kept entries one after the other."""
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, self.axis)

    def disconnect(self, kept: jax.Array) -> list[jax.Array]:
        """Undo `connect`."""
        if len(self.segments) == 1:
            return [kept]
        return jnp.split(kept, [self.segments[0].n_strata], self.axis)


def _cut(shape: tuple[int, ...], density: float, *, axis: int, shared: bool) -> Cut:
    strata = _divide(shape, density, axis=axis + len(shape), shared=shared)
    after = strata.axis + 1

    def restrict(g: jax.Array, masks: Masks) -> jax.Array:
        # All but one entry of each sum are masked: the sum is that entry, exactly.
        pieces = zip(masks, strata.split(g), strict=True)
        return strata.connect(
            [jnp.sum(jnp.where(m, x, 0), after, dtype=g.dtype) for m, x in pieces]
        )

    def expand(kept: jax.Array, masks: Masks) -> jax.Array:
        pieces = zip(masks, strata.disconnect(kept), strict=True)
        return strata.join(
            [jnp.where(m, jnp.expand_dims(x, after), 0) for m, x in pieces]
        )

    def residual(g: jax.Array, kept: jax.Array, masks: Masks) -> jax.Array:
        del kept
        pieces = zip(masks, strata.split(g), strict=True)
        return strata.join([jnp.where(m, 0, x) for m, x in pieces])

    return Cut(
        choose=lambda g, draw: strata.draw_masks(draw),
        restrict=restrict,
        expand=expand,
        residual=residual,
        carry_squares=lambda kept, old, new: restrict(expand(kept, old), new),
    )


def _divide(
    shape: tuple[int, ...], density: float, *, axis: int, shared: bool
) -> _Strata:
    n_kept = count_kept(shape[axis], density)
    length, n_long = divmod(shape[axis], n_kept)
    segments = [_Segment(0, n_kept - n_long, length)]
    if n_long:
        segments.append(_Segment(segments[0].stop, n_long, length + 1))
    return _Strata(shape, axis, tuple(segments), shared)
