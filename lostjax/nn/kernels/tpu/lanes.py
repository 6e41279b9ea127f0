"""Loops over strips, and copies of columns within VMEM, for the TPU kernels.

A kept channel is one column of a tile of x that is already in VMEM. Columns lie along
the 128 lanes of a vector register. A register of 128 selected columns therefore takes
one lane permutation and one masked store per register of the row. For 256 rows of 2736
inputs (350m down, v5e) the permute units need 940 cycles; a one-hot product would need
1408 cycles of the matrix units. Interleaved with the products (see `share_of`) the
permutations are free: the permute units are otherwise idle there, and each result is
stored at once and occupies no register. The reverse direction takes as many
permutations, with one select each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.tpu.blocks import (
    LANES,
    WRITTEN_OUT,
    round_up,
    strips_per_body,
)

Ref = Any
"""A Pallas reference to an array in VMEM."""

Rows = Any
"""A slice of the rows of a tile, `pallas.ds(start, size)`."""

Start = jax.Array | int
"""Index of a first row or column, static or traced."""

Part = tuple[Start, int]
"""First column and width of a range of columns."""


def for_strips(
    total: int,
    body: Callable[[Start, int], None],
    *,
    contraction: int,
    rows: int,
) -> None:
    """Call a body for each strip of 128 columns, with several strips per iteration.

    Strips that do not fill an iteration run in a separate loop, one per iteration:
    unrolled side by side, the sums of two of them need more registers than there are.

    Args:
        total: number of columns.
        body: function of a strip's first column and its width, which is less than 128
            for the last strip if 128 does not divide `total`.
        contraction: depth of the product in the body.
        rows: rows of this product.
    """
    n_strips = total // LANES
    most = strips_per_body(contraction, rows)
    # The fewest loop bodies in total; among equals, the longest body.
    per_turn = min(
        range(min(most, max(n_strips, 1)), 0, -1),
        key=lambda each: sum(divmod(n_strips, each)),
    )
    turns, rest = divmod(n_strips, per_turn)
    done = turns * per_turn * LANES

    def turn(first: Start) -> None:
        for strip in range(per_turn):
            body(first + strip * LANES, LANES)

    _repeat(turns, lambda index: turn(_times(index, per_turn * LANES)))
    _repeat(rest, lambda index: body(done + _times(index, LANES), LANES))
    if narrow := total % LANES:
        body(total - narrow, narrow)


def for_rows(rows: Rows, body: Callable[[Rows], None], *, most: int) -> None:
    """Call a body for each block of at most `most` rows."""
    size = min(most, rows.size)
    whole = rows.size // size
    _repeat(whole, lambda index: body(pl.ds(rows.start + _times(index, size), size)))
    if rest := rows.size % size:
        body(pl.ds(rows.start + whole * size, rest))


def for_blocks(rows: Rows, body: Callable[[Rows], None], *, size: int) -> None:
    """Call a body for each block of `size` rows, unrolled over `WRITTEN_OUT` rows."""

    def turn(some: Rows) -> None:
        for first in range(0, some.size, size):
            body(pl.ds(some.start + first, min(size, some.size - first)))

    for_rows(rows, turn, most=WRITTEN_OUT)


def even_rows(n_rows: int, *, most: int) -> int:
    """Return a block size of at most `most` rows that makes blocks about equal."""
    return round_up(pl.cdiv(n_rows, pl.cdiv(n_rows, most)), 16)


def _repeat(turns: int, body: Callable[[Start], None]) -> None:
    # A single iteration needs no loop, and static indices cost no address arithmetic.
    if turns == 1:
        body(0)
    elif turns:
        pl.loop(0, turns)(body)


def _times(index: Start, size: int) -> Start:
    # Mosaic cannot infer the alignment of a traced index: state it.
    return 0 if isinstance(index, int) else pl.multiple_of(index * size, size)


def index_of(start: Start, size: int) -> Start:
    """Return the index of a block whose first row or column is `start`.

    `start` is a multiple of `size`.
    """
    # Not `//`: its rule for negative numbers queries the device while lowering.
    return start // size if isinstance(start, int) else jax.lax.div(start, size)


def share_of(rows: Rows, index: Start, count: int) -> Rows:
    """Return the share of rows that one of `count` bodies processes.

    Shares have equal sizes, may overlap, and cover all rows.
    """
    # Multiples of 16 rows: whole registers of a 16-bit type.
    size = min(rows.size, round_up(pl.cdiv(rows.size, count), 16))
    last = rows.size - size
    # The last share is shifted back to end at the last row: shares may overlap.
    if isinstance(index, int):
        return pl.ds(rows.start + min(index * size, last), size)
    first = jnp.minimum(index * size, last)
    # Aligned to 8 sublanes; Mosaic cannot infer this from `minimum`.
    return pl.ds(pl.multiple_of(rows.start + first, 8), size)


def words_of(rows: Rows, dtype: jnp.dtype) -> Rows:
    """Return the rows of 32-bit words that hold the given rows.

    A word holds two rows of a 16-bit dtype, or one row of a 32-bit dtype.
    """
    per_word = 4 // dtype.itemsize
    first = index_of(rows.start, per_word)
    if not isinstance(first, int):
        # Rows are multiples of 16, so words of 16-bit rows are multiples of 8.
        first = pl.multiple_of(first, 8)
    return pl.ds(first, rows.size // per_word)


def gather_columns(
    x_ref: Ref, rows: Rows, columns_1C: jax.Array, words_ref: Ref, part: Part
) -> None:
    """Copy the selected columns that lie within a part of a tile.

    Args:
        x_ref: the tile (P, M).
        rows: slice of its rows.
        columns_1C: indices of the columns (1, C), C a multiple of 128; negative indices
            are ignored.
        words_ref: output (P, C), as 32-bit words, see `words_of`.
        part: first column of the part, a multiple of 128, and its width.
    """
    words = words_of(rows, x_ref.dtype)
    part_start, part_width = part
    for first in range(0, columns_1C.shape[1], LANES):
        columns = columns_1C[:, first : first + LANES] - part_start
        columns = jnp.broadcast_to(columns, (words.size, LANES))
        # Lane and register of each column: a permutation acts within one register.
        lane, register = columns & (LANES - 1), columns >> 7
        into_ref = words_ref.at[words, first : first + LANES]
        for start in range(0, part_width, LANES):
            # Masked store: each register contributes the columns that lie in it.
            width = min(LANES, part_width - start)
            some = _register(x_ref, rows, part_start + start, width)
            # Lanes are 32-bit: bitcast packs two rows of a 16-bit type into one word.
            found = jnp.take_along_axis(
                pltpu.bitcast(some, jnp.int32), lane, axis=1, mode="promise_in_bounds"
            )
            pltpu.store(into_ref, found, mask=register == start // LANES)


def scatter_strip(narrow_ref: Ref, rows: Rows, sources_1W: jax.Array) -> jax.Array:
    """Expand columns to one strip of a wider tile.

    Args:
        narrow_ref: the columns (P, C), C a multiple of 128, 32-bit.
        rows: slice of Q of its rows.
        sources_1W: for each column of the strip (1, 128), the index of its source
            column; negative for zeros.

    Returns:
        The strip (Q, 128).
    """
    sources = jnp.broadcast_to(sources_1W, (rows.size, LANES))
    lane, register = sources & (LANES - 1), sources >> 7
    total = jnp.zeros((rows.size, LANES), narrow_ref.dtype)
    for index in range(narrow_ref.shape[1] // LANES):
        part = narrow_ref[rows, index * LANES : (index + 1) * LANES]
        found = jnp.take_along_axis(part, lane, axis=1, mode="promise_in_bounds")
        # A select per source register; columns without a source keep their zeros.
        total = jnp.where(register == index, found, total)
    return total


def _register(x_ref: Ref, rows: Rows, start: Start, width: int) -> jax.Array:
    if not isinstance(start, int):
        start = pl.multiple_of(start, LANES)
    some: jax.Array = x_ref[rows, pl.ds(start, width)]
    # Pad a partial last register: permutations need all 128 lanes.
    missing = LANES - width
    return jnp.pad(some, ((0, 0), (0, missing))) if missing else some
