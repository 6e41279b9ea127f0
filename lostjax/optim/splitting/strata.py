"""Stratified subspaces: of every few rows, columns or entries, one is kept.

An axis of n entries, of which k = round(density n) are kept, is divided into S equal
parts of n/S neighbours, and each part into strata whose lengths differ by at most one.
Each stratum keeps one entry or, if k > n/2, omits one; this entry is drawn anew at
every refresh. All entries in strata of the same length are kept equally often. Between
the two lengths the frequencies differ: 1/l against 1/(l + 1) if one entry is kept.

    S = the largest power of two that divides n and k, as long as the kept entries of a
        part fill the vectors of the hardware (`Lanes`); at least 8 if 8 divides both

The parts keep k/S entries each, and lie one after the other in the state. So on any
number of shards that divides S, a shard's strata and their state are on one device,
and the choice does not depend on the number of shards. For other numbers the state is
still sharded (`optim.splitting.placement`), but its entries travel.

A stratum does not consist of neighbours but of entries at a stride,

    part (length, strata): entry j of stratum r is at j strata + r

so all strata of a part are selected by the same vector operations. In contrast to a
random permutation, strata need no sort, and masks restore them instead of a scatter:
the whole computation fuses into the optimiser's pass over the gradient.

FRUGAL (Zmushko et al., 2024, arXiv:2411.07837) draws permutations.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.optim.splitting.placement import explicit_spec, free_axis, place_like
from lostjax.optim.splitting.subspace import Cut, Draw, Subspace, count_kept

Choice = tuple[tuple[jax.Array, jax.Array | None], ...]
"""For each segment, whether an entry is kept, (.., S, length, strata, ..), and, if all
but one of each stratum are, the index of that one, uint32 (.., S, 1, strata, ..)."""

SUBLANES = 8
"""Rows of a tile of a TPU: fewer kept rows in a part would change the tiling."""

LANES = 128
"""Columns of a tile of a TPU, and of several vectors of a CPU."""

SHARDS = 8
"""Number of parts below which vectors are not made longer."""


def columns() -> Subspace:
    """Build a subspace of random columns (outputs) of each (M, N) matrix.

    The moments have shape (M, k). On a CPU it is slower than `rows` by at least half,
    because loops over the last axis do not vectorise once that axis is cut.

    Returns:
      The subspace, with k = max(1, round(density N)).
    """
    return Subspace(partial(_cut, axis=-1, lanes=LANES, shared=True))


def rows() -> Subspace:
    """Build a subspace of random rows (inputs) of each (M, N) matrix.

    The moments have shape (k, N). Papers that write W as (out, in) call these columns.

    Returns:
      The subspace, with k = max(1, round(density M)).
    """
    return Subspace(partial(_cut, axis=-2, lanes=SUBLANES, shared=True))


def coordinates() -> Subspace:
    """Build a subspace of random entries, k in each column of each (M, N) matrix.

    The moments have shape (k, N). Each step draws k N random numbers, `rows` only k.

    Returns:
      The subspace, with k = max(1, round(density M)).
    """
    return Subspace(partial(_cut, axis=-2, lanes=SUBLANES, shared=False))


class _Segment(NamedTuple):
    """The strata of equal length in a part."""

    start: int
    n_strata: int
    length: int
    n_kept: int
    """Entries that a stratum keeps: 1 (the drawn one) or length - 1 (all others)."""

    @property
    def stop(self) -> int:
        return self.start + self.n_strata * self.length


class _Strata(NamedTuple):
    """The division of one axis of a stack of matrices."""

    shape: tuple[int, ...]
    axis: int
    """Index of the axis, counted from the front."""
    n_parts: int
    segments: tuple[_Segment, ...]
    """One segment, or two if the strata have two lengths."""
    shared: bool
    """Whether one choice holds for all entries of the matrix's other axis."""

    @property
    def table(self) -> tuple[int, ...]:
        """Shape of the random words of a choice, one for each stratum."""
        n_strata = sum(segment.n_strata for segment in self.segments)
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        if self.shared:
            # One draw for the whole matrix: both of its axes broadcast.
            lead = lead[:-1] + (1,) if not trail else lead
            trail = (1,) * len(trail)
        return (*lead, self.n_parts, n_strata, *trail)

    def draw(self, g: jax.Array, draw: Draw) -> Choice:
        """Draw one entry of every stratum, to keep it or to omit it."""
        del g
        chosen: list[tuple[jax.Array, jax.Array | None]] = []
        bits, start = draw.bits(self.table), 0
        for segment in self.segments:
            stop = start + segment.n_strata
            place = _scale(self._slice(bits, start, stop), segment.length)
            place = jnp.expand_dims(place, self.axis + 1)
            is_drawn = self._places(place, segment.length) == place
            if segment.n_kept == 1:
                chosen.append((is_drawn, None))
            else:
                chosen.append((~is_drawn, place))
            start = stop
        return tuple(chosen)

    def restrict(self, g: jax.Array, chosen: Choice) -> jax.Array:
        """Concatenate the kept entries."""
        parts = []
        for (is_kept, omitted), x in zip(chosen, self._split(g), strict=True):
            if omitted is None:
                kept = self._pick(x, is_kept)
            else:
                # All but one: a shift by one after the omitted entry.
                before, behind = self._slice(x, 0, -1), self._slice(x, 1)
                is_before = self._places(omitted, before.shape[self.axis + 1]) < omitted
                kept = _select(is_before, before, behind)
            parts.append(kept)
        return self._join(parts)

    def expand(
        self, kept: jax.Array, chosen: Choice, free: jax.Array | None = None
    ) -> jax.Array:
        """Put the kept entries back in place, with zeros or `free` elsewhere."""
        parts = []
        others = [None] * len(chosen) if free is None else self._split(free)
        given = self._split(kept, whole=False)
        for (is_kept, omitted), x, other in zip(chosen, given, others, strict=True):
            if omitted is not None:
                # Shift the entries after the omitted one.
                before, behind = self._pad(x, 0, 1), self._pad(x, 1, 0)
                is_before = self._places(omitted, before.shape[self.axis + 1]) < omitted
                x = _select(is_before, before, behind)
            parts.append(_select(is_kept, x, other))
        return self._join(parts)

    def combine(self, kept: jax.Array, free: jax.Array, chosen: Choice) -> jax.Array:
        """Put the kept entries in the place of those of an array of the full shape."""
        return self.expand(kept, chosen, free)

    def residual(self, g: jax.Array, kept: jax.Array, chosen: Choice) -> jax.Array:
        """Set the kept entries to zero."""
        del kept
        # Select zeros instead of subtracting the kept part: exact, and no rounding.
        pairs = zip(chosen, self._split(g), strict=True)
        return self._join([_select(is_kept, None, x) for (is_kept, _), x in pairs])

    def _pick(self, x: jax.Array, is_kept: jax.Array) -> jax.Array:
        """Pick one entry of each stratum: (.., length, strata, ..) -> (.., 1, ..)."""
        # A sum of integers, of which one is not 0: exact for -0 too, and XLA's CPU
        # backend calls a library for floats, which stores the masked array first.
        word = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        wide = jnp.promote_types(word, jnp.uint32)
        bits = jax.lax.bitcast_convert_type(x, word).astype(wide)
        kept = jnp.sum(_select(is_kept, bits), self.axis + 1, dtype=wide)
        return jax.lax.bitcast_convert_type(kept.astype(word), x.dtype)

    def _split(self, x: jax.Array, *, whole: bool = True) -> list[jax.Array]:
        """Reshape whole strata, or their kept entries, by segment.

        (.., n, ..) -> (.., S, length, strata, ..)
        """
        others = [a for a in reversed(range(x.ndim)) if a != self.axis]
        # Shards that hold whole parts need no communication.
        x = free_axis(x, self.axis, parts=self.n_parts, onto=others)
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        if len(self.segments) > 1:
            x = x.reshape(*lead, self.n_parts, -1, *trail)
        parts, start = [], 0
        for segment in self.segments:
            length = segment.length if whole else segment.n_kept
            stop = start + segment.n_strata * length
            part = x if len(self.segments) == 1 else self._slice(x, start, stop)
            parts.append(part.reshape(*lead, self.n_parts, length, -1, *trail))
            start = stop
        return parts

    def _join(self, parts: list[jax.Array]) -> jax.Array:
        """Undo `_split`, for whole strata or for their kept entries."""
        lead, trail = self.shape[: self.axis], self.shape[self.axis + 1 :]
        if len(parts) == 1:  # a concatenation copies
            return parts[0].reshape(*lead, -1, *trail)
        flat = [part.reshape(*lead, self.n_parts, -1, *trail) for part in parts]
        return jnp.concatenate(flat, self.axis + 1).reshape(*lead, -1, *trail)

    def _places(self, place: jax.Array, length: int) -> jax.Array:
        """Number the entries of each stratum, in the shape of a choice."""
        # In full: an implicit broadcast is one more operation to compile.
        shape = list(place.shape)
        shape[self.axis + 1] = length
        return jax.lax.broadcasted_iota(jnp.uint32, shape, self.axis + 1)

    def _slice(self, x: jax.Array, start: int, stop: int | None = None) -> jax.Array:
        if start == 0 and stop == x.shape[self.axis + 1]:
            return x
        return jax.lax.slice_in_dim(x, start, stop, axis=self.axis + 1)

    def _pad(self, x: jax.Array, before: int, behind: int) -> jax.Array:
        widths = [(0, 0)] * x.ndim
        widths[self.axis + 1] = before, behind
        return jnp.pad(x, widths)


def _scale(bits: jax.Array, length: int) -> jax.Array:
    """Scale random words, of which the upper bits are random, to 0 .. length - 1."""
    if length & (length - 1) == 0:
        # Equal to the general case, by one operation.
        return bits >> (33 - length.bit_length()) if length > 1 else bits * 0
    # A range is scaled, not divided: the frequencies differ by at most length / 2^16.
    return (bits >> 16) * length >> 16


def _select(
    mask: jax.Array, on_true: jax.Array | None, on_false: jax.Array | None = None
) -> jax.Array:
    """Select entries, with broadcasting; None for zeros."""
    like = on_false if on_true is None else on_true
    assert like is not None
    if explicit_spec(like) is not None:
        mask = place_like(mask, like)
        zero = jnp.zeros((), like.dtype)
        return jnp.where(
            mask,
            zero if on_true is None else on_true,
            zero if on_false is None else on_false,
        )
    # Half as many operations as `jnp.where`, for every matrix of a tree to compile.
    shape = jnp.broadcast_shapes(mask.shape, like.shape)
    zeros = jax.lax.full(shape, 0, like.dtype)
    return jax.lax.select(
        jnp.broadcast_to(mask, shape),
        zeros if on_true is None else jnp.broadcast_to(on_true, shape),
        zeros if on_false is None else jnp.broadcast_to(on_false, shape),
    )


def _cut(
    shape: tuple[int, ...], density: float, *, axis: int, lanes: int, shared: bool
) -> Cut:
    strata = _divide(shape, density, axis=axis + len(shape), lanes=lanes, shared=shared)

    def carry(kept: jax.Array, old: Choice, new: Choice) -> jax.Array:
        return strata.restrict(strata.expand(kept, old), new)

    return Cut(
        strata.draw,
        strata.restrict,
        strata.expand,
        strata.residual,
        carry,
        combine=strata.combine,
        table=strata.table,
    )


def _divide(
    shape: tuple[int, ...], density: float, *, axis: int, lanes: int, shared: bool
) -> _Strata:
    others = shape[:axis] + shape[axis + 1 :]
    n_kept = _round_up(count_kept(shape[axis], density), shape[axis], others)
    n_parts = _count_parts(shape[axis], n_kept, lanes)
    size, kept = shape[axis] // n_parts, n_kept // n_parts
    # At most half kept: draw the kept entries; else the omitted ones. kept == size has
    # strata of one entry, which is everything.
    keeps_one = kept <= size - kept or kept == size
    n_drawn = kept if keeps_one else size - kept
    # n_long strata have one entry more, so that the whole part is covered.
    length, n_long = divmod(size, n_drawn)
    segments, start = [], 0
    for n_strata, entries in ((n_drawn - n_long, length), (n_long, length + 1)):
        if n_strata:
            each = 1 if keeps_one else entries - 1
            segments.append(_Segment(start, n_strata, entries, each))
            start = segments[-1].stop
    return _Strata(shape, axis, n_parts, tuple(segments), shared)


def _count_parts(size: int, n_kept: int, lanes: int) -> int:
    both = math.gcd(size, n_kept)
    n_parts = both & -both  # the largest power of two that divides both
    while n_parts > SHARDS and n_kept // n_parts < lanes:
        n_parts //= 2
    return n_parts


def _round_up(n_kept: int, size: int, others: tuple[int, ...]) -> int:
    """Round up to a multiple of up to 8 if no axis could be divided by 8 devices.

    Not below 64 kept entries, of which it would be more than an eighth.
    """
    parts = math.gcd(size, SHARDS)
    if n_kept < SHARDS**2 or any(other % parts == 0 for other in others):
        return n_kept
    return -(-n_kept // parts) * parts
