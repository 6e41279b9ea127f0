"""Subspaces by strata: of every few columns, rows or entries, one is kept.

An axis of size n, of which k = round(density n) are kept, is divided into runs of
neighbours, and runs into strata of equally many, but for one: each stratum keeps one
run, or, where k > n/2, leaves one out. Which one is drawn anew at every refresh. All
entries of strata of one length are kept equally often; of the longer, 1/l against
1/(l + 1). Runs are as long as a TPU's lanes where the axis is long enough, for the
entries of a matrix's axis have no order that they could spoil; those of `coordinates`
are of 1.

Against a random permutation this needs no sort, leaves entries in order, and puts them
back by masks instead of a scatter: it fuses into the optimiser's own pass over the
gradient, and stays on the device that holds the stratum where an axis is sharded.

FRUGAL (Zmushko et al., 2024, arXiv:2411.07837) draws permutations.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.splitting.subspace import (
    Cut,
    Draw,
    Subspace,
    count_kept,
    unshard_axis,
)

Drawn = tuple[jax.Array, ...]
"""The drawn run's place in its stratum, (.., strata, 1, 1, ..), of each segment."""

MIN_RUN = 128
"""Shortest run, where an axis is long enough: the lanes of a TPU. Runs of 16 cost a
CPU twice the time."""


def columns() -> Subspace:
    """Keep outputs: random columns of each (M, N) matrix, moments (M, k).

    On a CPU slower than `rows` by half and more: loops over the last axis, which is
    then cut, do not vectorise.

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, shared=True))


def rows() -> Subspace:
    """Keep inputs: random rows of each (M, N) matrix, moments (k, N).

    Papers that write W as (out, in) call these columns.

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
    """Runs of a stratum."""
    run: int
    """Entries of a run."""
    n_kept: int
    """Runs that a stratum keeps: 1, the drawn one, or length - 1, all others."""

    @property
    def stop(self) -> int:
        return self.start + self.n_strata * self.length * self.run


class _Strata(NamedTuple):
    """An axis of a stack of matrices, divided."""

    shape: tuple[int, ...]
    axis: int
    """Counted from the front."""
    segments: tuple[_Segment, ...]
    """One, or two where the strata differ in length."""
    shared: bool
    """Whether the matrix's other axis shares one choice."""

    def draw(self, g: jax.Array, draw: Draw) -> Drawn:
        """Draw one run of every stratum."""
        del g
        shape = list(self.shape)
        if self.shared:
            shape[-2:] = 1, 1
        shape[self.axis] = sum(segment.n_strata for segment in self.segments)
        bits = jax.random.bits(draw.key(), shape, "uint32")
        drawn, start = [], 0
        for segment in self.segments:
            part = jax.lax.slice_in_dim(
                bits, start, start + segment.n_strata, axis=self.axis
            )
            # Of 2^32 numbers, none is favoured by more than length / 2^32.
            places = (part % segment.length).astype(jnp.int32)
            drawn.append(jnp.expand_dims(places, (self.axis + 1, self.axis + 2)))
            start += segment.n_strata
        return tuple(drawn)

    def restrict(self, g: jax.Array, drawn: Drawn) -> jax.Array:
        """Lay the kept entries one after the other."""
        parts = []
        for segment, place, x in zip(self.segments, drawn, self._split(g), strict=True):
            if segment.n_kept == 1:
                x = jnp.take_along_axis(x, place, self.axis + 1)
            else:
                is_before = self._places(segment.n_kept) < place
                x = jnp.where(is_before, self._slice(x, 0, -1), self._slice(x, 1, None))
            parts.append(x)
        return self._join(parts)

    def expand(self, kept: jax.Array, drawn: Drawn) -> jax.Array:
        """Put kept entries back among zeros."""
        parts, start = [], 0
        for segment, place in zip(self.segments, drawn, strict=True):
            size = segment.n_strata * segment.n_kept * segment.run
            x = jax.lax.slice_in_dim(kept, start, start + size, axis=self.axis)
            x = self._stack(x, segment._replace(length=segment.n_kept))
            places = self._places(segment.length)
            if segment.n_kept == 1:
                x = jnp.where(places == place, x, 0)
            else:
                x = jnp.where(places < place, self._pad(x, 0, 1), self._pad(x, 1, 0))
                x = jnp.where(places == place, 0, x)
            parts.append(x)
            start += size
        return self._join(parts)

    def residual(self, g: jax.Array, kept: jax.Array, drawn: Drawn) -> jax.Array:
        """Put zeros for the kept entries."""
        del kept
        parts = []
        for segment, place, x in zip(self.segments, drawn, self._split(g), strict=True):
            is_drawn = self._places(segment.length) == place
            is_kept = is_drawn if segment.n_kept == 1 else ~is_drawn
            parts.append(jnp.where(is_kept, 0, x))
        return self._join(parts)

    def _split(self, x: jax.Array) -> list[jax.Array]:
        """View as runs: (.., n, ..) -> (.., strata, length, run, ..), by segment."""
        is_one = len(self.segments) == 1
        parts = self.segments[0].n_strata if is_one else 1
        x = unshard_axis(x, self.axis, parts=parts)
        return [
            self._stack(
                jax.lax.slice_in_dim(x, part.start, part.stop, axis=self.axis), part
            )
            for part in self.segments
        ]

    def _join(self, parts: list[jax.Array]) -> jax.Array:
        """Undo `_split`, of whole strata or of what is kept of them."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        flat = [part.reshape(*lead, -1, *trail) for part in parts]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, self.axis)

    def _stack(self, x: jax.Array, segment: _Segment) -> jax.Array:
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return x.reshape(*lead, segment.n_strata, segment.length, segment.run, *trail)

    def _places(self, length: int) -> jax.Array:
        """Number the runs of a stratum, along their axis."""
        n_after = len(self.shape) - self.axis
        return jnp.arange(length).reshape(-1, *(1,) * n_after)

    def _slice(self, x: jax.Array, start: int, stop: int | None) -> jax.Array:
        return jax.lax.slice_in_dim(x, start, stop, axis=self.axis + 1)

    def _pad(self, x: jax.Array, before: int, behind: int) -> jax.Array:
        widths = [(0, 0)] * x.ndim
        widths[self.axis + 1] = before, behind
        return jnp.pad(x, widths)


def _cut(shape: tuple[int, ...], density: float, *, axis: int, shared: bool) -> Cut:
    strata = _divide(shape, density, axis=axis + len(shape), shared=shared)

    def carry(kept: jax.Array, old: Drawn, new: Drawn) -> jax.Array:
        return strata.restrict(strata.expand(kept, old), new)

    return Cut(strata.draw, strata.restrict, strata.expand, strata.residual, carry)


def _divide(
    shape: tuple[int, ...], density: float, *, axis: int, shared: bool
) -> _Strata:
    size = shape[axis]
    n_kept = count_kept(size, density)
    keeps_one = n_kept <= size - n_kept or n_kept == size
    n_drawn = n_kept if keeps_one else size - n_kept
    length, n_long = divmod(size, n_drawn)
    segments, start = [], 0
    for drawn, runs in ((n_drawn - n_long, length), (n_long, length + 1)):
        if drawn:
            n_strata = _count_strata(drawn) if shared else drawn
            kept = 1 if keeps_one else runs - 1
            segments.append(_Segment(start, n_strata, runs, drawn // n_strata, kept))
            start = segments[-1].stop
    return _Strata(shape, axis, tuple(segments), shared)


def _count_strata(n_drawn: int) -> int:
    """Find the largest power of two that leaves whole runs of MIN_RUN and more."""
    n_strata = 1
    while n_drawn % (2 * n_strata) == 0 and n_drawn // (2 * n_strata) >= MIN_RUN:
        n_strata *= 2
    return n_strata
