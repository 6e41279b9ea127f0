"""Stratified subspaces: of every few columns, rows or entries, one is kept.

An axis of size n, of which k = round(density n) entries are kept, is divided into runs
of neighbours, and the runs into strata whose numbers of runs differ by at most one.
Each stratum keeps one run or, if k > n/2, omits one; this run is drawn anew at every
refresh. All entries in strata of the same length are kept equally often. Between the
two lengths the frequencies differ: 1/l against 1/(l + 1) if one run is kept. Runs are
as long as the lanes of a TPU if the axis is long enough; this is safe because the
entries of a matrix axis have no meaningful order. The runs of `coordinates` have length
1.

In contrast to a random permutation, strata need no sort, preserve the order of entries,
and restore them with masks instead of a scatter. The whole computation fuses into the
optimiser's pass over the gradient and, on a sharded axis, stays on the device that
holds the stratum.

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
"""For each segment, the drawn run's index in its stratum, (.., strata, 1, 1, ..)."""

MIN_RUN = 128
"""Minimum length of a run if the axis is long enough: the lanes of a TPU. Runs of 16
take twice the time on a CPU."""


def columns() -> Subspace:
    """Build a subspace of random columns (outputs) of each (M, N) matrix.

    The moments have shape (M, k). On a CPU it is slower than `rows` by at least half,
    because loops over the last axis do not vectorise once that axis is cut.

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, shared=True))


def rows() -> Subspace:
    """Build a subspace of random rows (inputs) of each (M, N) matrix.

    The moments have shape (k, N). Papers that write W as (out, in) call these columns.

    Returns:
      The subspace, with k = max(1, round(density M)).
    """
    return Subspace(partial(_cut, axis=-2, shared=True))


def coordinates() -> Subspace:
    """Build a subspace of random entries, k in each row of each (M, N) matrix.

    The moments have shape (M, k). Each step draws M k random numbers, `columns` only k.

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, shared=False))


class _Segment(NamedTuple):
    """Adjacent strata of equal length."""

    start: int
    n_strata: int
    length: int
    """Number of runs per stratum."""
    run: int
    """Number of entries per run."""
    n_kept: int
    """Runs that a stratum keeps: 1 (the drawn one) or length - 1 (all others)."""

    @property
    def stop(self) -> int:
        return self.start + self.n_strata * self.length * self.run


class _Strata(NamedTuple):
    """The division of one axis of a stack of matrices."""

    shape: tuple[int, ...]
    axis: int
    """Index of the axis, counted from the front."""
    segments: tuple[_Segment, ...]
    """One segment, or two if the strata have two lengths."""
    shared: bool
    """Whether one choice holds for all entries of the matrix's other axis."""

    def draw(self, g: jax.Array, draw: Draw) -> Drawn:
        """Draw one run of every stratum."""
        del g
        shape = list(self.shape)
        if self.shared:
            # One draw for the whole matrix: both of its axes broadcast.
            shape[-2:] = 1, 1
        shape[self.axis] = sum(segment.n_strata for segment in self.segments)
        # Raw bits: randint draws twice as many to remove a bias that does not matter
        # here.
        bits = jax.random.bits(draw.key(), shape, "uint32")
        drawn, start = [], 0
        for segment in self.segments:
            part = jax.lax.slice_in_dim(
                bits, start, start + segment.n_strata, axis=self.axis
            )
            # The bias of the remainder is below length / 2^32.
            places = (part % segment.length).astype(jnp.int32)
            drawn.append(jnp.expand_dims(places, (self.axis + 1, self.axis + 2)))
            start += segment.n_strata
        return tuple(drawn)

    def restrict(self, g: jax.Array, drawn: Drawn) -> jax.Array:
        """Concatenate the kept entries."""
        parts = []
        for segment, place, x in zip(self.segments, drawn, self._split(g), strict=True):
            if segment.n_kept == 1:
                # One run per stratum: a gather whose indices stay within the shard's
                # own strata.
                x = jnp.take_along_axis(x, place, self.axis + 1)
            else:
                # All but one: a shift by one after the omitted run, instead of a
                # gather.
                is_before = self._places(segment.n_kept) < place
                x = jnp.where(is_before, self._slice(x, 0, -1), self._slice(x, 1, None))
            parts.append(x)
        return self._join(parts)

    def expand(self, kept: jax.Array, drawn: Drawn) -> jax.Array:
        """Put the kept entries back in place, with zeros elsewhere."""
        parts, start = [], 0
        for segment, place in zip(self.segments, drawn, strict=True):
            size = segment.n_strata * segment.n_kept * segment.run
            x = jax.lax.slice_in_dim(kept, start, start + size, axis=self.axis)
            x = self._stack(x, segment._replace(length=segment.n_kept))
            places = self._places(segment.length)
            if segment.n_kept == 1:
                x = jnp.where(places == place, x, 0)
            else:
                # Shift the entries after the omitted run by one, then zero that run.
                x = jnp.where(places < place, self._pad(x, 0, 1), self._pad(x, 1, 0))
                x = jnp.where(places == place, 0, x)
            parts.append(x)
            start += size
        return self._join(parts)

    def residual(self, g: jax.Array, kept: jax.Array, drawn: Drawn) -> jax.Array:
        """Set the kept entries to zero."""
        del kept
        parts = []
        for segment, place, x in zip(self.segments, drawn, self._split(g), strict=True):
            is_drawn = self._places(segment.length) == place
            is_kept = is_drawn if segment.n_kept == 1 else ~is_drawn
            # Select zeros instead of subtracting the kept part: exact, and no rounding.
            parts.append(jnp.where(is_kept, 0, x))
        return self._join(parts)

    def _split(self, x: jax.Array) -> list[jax.Array]:
        """Reshape to runs by segment: (.., n, ..) -> (.., strata, length, run, ..)."""
        is_one = len(self.segments) == 1
        # Strata that align with the shards need no communication.
        parts = self.segments[0].n_strata if is_one else 1
        x = unshard_axis(x, self.axis, parts=parts)
        return [
            self._stack(
                jax.lax.slice_in_dim(x, part.start, part.stop, axis=self.axis), part
            )
            for part in self.segments
        ]

    def _join(self, parts: list[jax.Array]) -> jax.Array:
        """Undo `_split`, for whole strata or for their kept parts."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        flat = [part.reshape(*lead, -1, *trail) for part in parts]
        # A concatenation copies; a single segment needs none.
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, self.axis)

    def _stack(self, x: jax.Array, segment: _Segment) -> jax.Array:
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return x.reshape(*lead, segment.n_strata, segment.length, segment.run, *trail)

    def _places(self, length: int) -> jax.Array:
        """Number the runs of a stratum along their axis."""
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
    # At most half kept: draw what is kept; else draw what is omitted. n_kept == size
    # keeps one run of length 1 per stratum, which is everything.
    keeps_one = n_kept <= size - n_kept or n_kept == size
    n_drawn = n_kept if keeps_one else size - n_kept
    # n_long strata have one run more, so that all n entries are covered.
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
    """Return the largest power of two that divides n_drawn into runs >= MIN_RUN."""
    n_strata = 1
    while n_drawn % (2 * n_strata) == 0 and n_drawn // (2 * n_strata) >= MIN_RUN:
        n_strata *= 2
    return n_strata
