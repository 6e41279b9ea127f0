"""Subspaces by strata: of every few columns, rows or entries, one is kept.

An axis of size n is divided into strata of g = 1 / density runs each, equally long, and
one run of each stratum is kept, drawn anew at every refresh. An entry is kept as often
as any other; neighbours share their fate. Runs are as long as vector units like (128 or
more) where the axis is long enough, for between the entries of a matrix's axis there is
no order that they could spoil; `coordinates` has runs of 1. Where g does not divide the
axis, a second segment of strata has runs that are drawn from g + 1.

Against a random permutation this needs no sort, leaves entries in order, and cuts by
masks instead of gathers: it fuses into the optimiser's own pass over the gradient, and
stays on the device that holds the stratum where an axis is sharded.

FRUGAL (Zmushko et al., 2024, arXiv:2411.07837) draws permutations.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.subspace import Cut, Draw, Subspace, count_kept, unshard_axis

Chosen = tuple[jax.Array, ...]
"""Of each segment, which run of every stratum is kept."""


def columns() -> Subspace:
    """Keep outputs: random columns of each (M, N) matrix, moments (M, k).

    On a CPU slower than `rows` by two or three: its loops over the last axis, which is
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


MIN_RUN = 128
"""Shortest run, where an axis is long enough: the lanes of a TPU. Runs of 16 cost a
CPU twice the time."""


class _Segment(NamedTuple):
    """Neighbouring strata of one make."""

    start: int
    n_strata: int
    n_runs: int
    """In a stratum; one of them is kept."""
    run: int
    """Entries of a run."""

    @property
    def n_kept(self) -> int:
        return self.n_strata * self.run

    @property
    def stop(self) -> int:
        return self.start + self.n_kept * self.n_runs


class _Strata(NamedTuple):
    """An axis of a stack of matrices, divided."""

    shape: tuple[int, ...]
    axis: int
    """Counted from the front."""
    segments: tuple[_Segment, ...]
    """One, or two where the kept entries do not divide the axis."""
    shared: bool
    """Whether the matrix's other axis shares one choice."""

    def draw(self, draw: Draw) -> Chosen:
        """Choose the kept run of every stratum, (.., strata, 1, 1, ..)."""
        keys = jax.random.split(draw.key(), len(self.segments))
        chosen = []
        for key, segment in zip(keys, self.segments, strict=True):
            shape = list(self.shape)
            if self.shared:
                shape[-2:] = 1, 1
            shape[self.axis] = segment.n_strata
            runs = jax.random.randint(key, shape, 0, segment.n_runs)
            chosen.append(jnp.expand_dims(runs, (self.axis + 1, self.axis + 2)))
        return tuple(chosen)

    def masks(self, chosen: Chosen) -> list[jax.Array]:
        """Mark the kept runs, (.., strata, runs, 1, ..)."""
        n_after = len(self.shape) - self.axis
        return [
            runs == jnp.arange(segment.n_runs).reshape(-1, *(1,) * n_after)
            for runs, segment in zip(chosen, self.segments, strict=True)
        ]

    def split(self, x: jax.Array) -> list[jax.Array]:
        """View as runs: (.., n, ..) -> (.., strata, runs, run, ..) of each segment."""
        if len(self.segments) == 1:
            x = unshard_axis(x, self.axis, parts=self.segments[0].n_strata)
            return [self._as_runs(x, self.segments[0])]
        x = unshard_axis(x, self.axis, parts=1)
        return [
            self._as_runs(
                jax.lax.slice_in_dim(x, part.start, part.stop, axis=self.axis), part
            )
            for part in self.segments
        ]

    def spread(self, kept: jax.Array) -> list[jax.Array]:
        """View kept entries beside the runs, (.., strata, 1, run, ..)."""
        parts = [kept]
        if len(self.segments) > 1:
            parts = jnp.split(kept, [self.segments[0].n_kept], self.axis)
        return [
            self._as_runs(part, segment._replace(n_runs=1))
            for part, segment in zip(parts, self.segments, strict=True)
        ]

    def _as_runs(self, x: jax.Array, segment: _Segment) -> jax.Array:
        lead, trail = x.shape[: self.axis], x.shape[self.axis + 1 :]
        return x.reshape(*lead, segment.n_strata, segment.n_runs, segment.run, *trail)

    def join(self, pieces: list[jax.Array]) -> jax.Array:
        """Undo `split`, or connect what is kept of each segment."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        flat = [piece.reshape(*lead, -1, *trail) for piece in pieces]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, self.axis)


def _cut(shape: tuple[int, ...], density: float, *, axis: int, shared: bool) -> Cut:
    strata = _divide(shape, density, axis=axis + len(shape), shared=shared)

    def restrict(g: jax.Array, chosen: Chosen) -> jax.Array:
        pieces = zip(chosen, strata.split(g), strict=True)
        return strata.join(
            [jnp.take_along_axis(x, runs, strata.axis + 1) for runs, x in pieces]
        )

    def expand(kept: jax.Array, chosen: Chosen) -> jax.Array:
        pieces = zip(strata.masks(chosen), strata.spread(kept), strict=True)
        return strata.join([jnp.where(m, x, 0) for m, x in pieces])

    def residual(g: jax.Array, kept: jax.Array, chosen: Chosen) -> jax.Array:
        del kept
        pieces = zip(strata.masks(chosen), strata.split(g), strict=True)
        return strata.join([jnp.where(m, 0, x) for m, x in pieces])

    return Cut(
        choose=lambda g, draw: strata.draw(draw),
        restrict=restrict,
        expand=expand,
        residual=residual,
        carry_squares=lambda kept, old, new: restrict(expand(kept, old), new),
    )


def _divide(
    shape: tuple[int, ...], density: float, *, axis: int, shared: bool
) -> _Strata:
    n_kept = count_kept(shape[axis], density)
    n_runs, n_long = divmod(shape[axis], n_kept)
    segments, start = [], 0
    for kept, runs in ((n_kept - n_long, n_runs), (n_long, n_runs + 1)):
        if kept:
            n_strata = _count_strata(kept) if shared else kept
            segments.append(_Segment(start, n_strata, runs, kept // n_strata))
            start = segments[-1].stop
    return _Strata(shape, axis, tuple(segments), shared)


def _count_strata(n_kept: int) -> int:
    """Find the largest power of two that leaves whole runs of MIN_RUN and more."""
    n_strata = 1
    while n_kept % (2 * n_strata) == 0 and n_kept // (2 * n_strata) >= MIN_RUN:
        n_strata *= 2
    return n_strata
