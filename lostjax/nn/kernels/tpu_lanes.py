"""Loops over strips, and moves of whole columns within VMEM, for the TPU kernels.

A kept channel is one column of a tile of x that VMEM already holds. Columns lie along
the 128 lanes of a vector register, so that a register of 128 chosen columns is made of
one lane permutation and one select for each register of the row, and so is the way
back. For 256 rows of 2736 inputs (350m down, v5e) that is 1032 cycles of the compiler's
schedule, where a one-hot product would keep the matrix units busy for 1408. Written
between the products instead of in a loop of its own it fills their gaps (4391 cycles in
all, not 5400), but spills 322 registers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.tpu_blocks import LANES, round_up, strips_per_body

Ref = Any
"""A Pallas reference to an array in VMEM."""

Rows = Any
"""A slice of the rows of a tile, `pallas.ds(start, size)`."""

_PER_TURN = 16  # registers of a row that one turn of the gather looks at

Start = jax.Array | int
"""A first row or column, known or traced."""


def for_strips(
    total: int, body: Callable[[Start, int], None], *, contraction: int
) -> None:
    """Run a body for each strip of 128 columns, several to a loop's turn.

    Args:
        total: number of columns.
        body: takes a strip's first column and its width; the last may be narrower.
        contraction: depth of the product that the body does.
    """
    n_strips = pl.cdiv(total, LANES)
    turns = pl.cdiv(n_strips, strips_per_body(contraction))
    per_turn = pl.cdiv(n_strips, turns)
    whole = total // LANES // per_turn

    def turn(first: Start) -> None:
        for strip in range(per_turn):
            body(first + strip * LANES, LANES)

    if whole:
        _repeat(whole, lambda index: turn(_times(index, per_turn * LANES)))
    for first in range(whole * per_turn * LANES, total, LANES):
        body(first, min(LANES, total - first))


def for_rows(rows: Rows, body: Callable[[Rows], None], *, most: int) -> None:
    """Run a body for each block of at most `most` of some rows."""
    size = min(most, rows.size)
    whole = rows.size // size
    _repeat(whole, lambda index: body(pl.ds(rows.start + _times(index, size), size)))
    if rest := rows.size % size:
        body(pl.ds(rows.start + whole * size, rest))


def even_rows(n_rows: int, *, most: int) -> int:
    """Choose a block of at most `most` rows so that blocks are about equally long."""
    return round_up(pl.cdiv(n_rows, pl.cdiv(n_rows, most)), 16)


def _repeat(turns: int, body: Callable[[Start], None]) -> None:
    if turns == 1:
        body(0)
    else:
        pl.loop(0, turns)(body)


def _times(index: Start, size: int) -> Start:
    return 0 if isinstance(index, int) else pl.multiple_of(index * size, size)


def gather_columns(x_ref: Ref, rows: Rows, columns_1C: jax.Array) -> jax.Array:
    """Gather columns of a tile.

    Args:
        x_ref: the tile (P, M).
        rows: which of its rows, a slice of Q.
        columns_1C: the columns (1, C), C a multiple of 128; negative ones give zeros.

    Returns:
        An array (Q, C) of the tile's type.
    """
    dtype, width = x_ref.dtype, x_ref.shape[1]
    n_words = rows.size * dtype.itemsize // 4  # two 16-bit rows move as one of 32 bits
    whole = width // LANES // _PER_TURN

    def gather(columns_1W: jax.Array) -> jax.Array:
        choose = _chooser(columns_1W, n_words)

        def look(register: Start, total: jax.Array) -> jax.Array:
            part = pltpu.bitcast(_register(x_ref, rows, register), jnp.int32)
            return choose(part, register, total)

        def turn(index: jax.Array, total: jax.Array) -> jax.Array:
            for register in range(_PER_TURN):
                total = look(index * _PER_TURN + register, total)
            return total

        total = jnp.zeros((n_words, LANES), jnp.int32)
        if whole > 1:
            total = jax.lax.fori_loop(0, whole, turn, total)
        looked = whole * _PER_TURN if whole > 1 else 0
        for register in range(looked, pl.cdiv(width, LANES)):
            total = look(register, total)
        gathered: jax.Array = pltpu.bitcast(total, dtype)
        return gathered

    firsts = range(0, columns_1C.shape[1], LANES)
    parts = [gather(columns_1C[:, first : first + LANES]) for first in firsts]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def scatter_strip(narrow_ref: Ref, rows: Rows, sources_1W: jax.Array) -> jax.Array:
    """Spread columns over one strip of a wider tile.

    Args:
        narrow_ref: the columns (P, C), C a multiple of 128, 32-bit.
        rows: which of its rows, a slice of Q.
        sources_1W: for each column of the strip (1, 128) the one that it takes;
            negative for zeros.

    Returns:
        An array (Q, 128).
    """
    choose = _chooser(sources_1W, rows.size)
    total = jnp.zeros((rows.size, LANES), narrow_ref.dtype)
    for register in range(narrow_ref.shape[1] // LANES):
        total = choose(_register(narrow_ref, rows, register), register, total)
    return total


def _chooser(columns_1W: jax.Array, n_rows: int) -> Callable[..., jax.Array]:
    columns = jnp.broadcast_to(columns_1W, (n_rows, LANES))
    lane, register = columns & (LANES - 1), columns >> 7

    def choose(part: jax.Array, index: Start, other: jax.Array) -> jax.Array:
        found = jnp.take_along_axis(part, lane, axis=1, mode="promise_in_bounds")
        return jnp.where(register == index, found, other)

    return choose


def _register(x_ref: Ref, rows: Rows, index: Start) -> jax.Array:
    if not isinstance(index, int):
        columns = pl.ds(pl.multiple_of(index * LANES, LANES), LANES)
        whole: jax.Array = x_ref[rows, columns]
        return whole
    part: jax.Array = x_ref[
        rows, index * LANES : min((index + 1) * LANES, x_ref.shape[1])
    ]
    missing = LANES - part.shape[1]
    return jnp.pad(part, ((0, 0), (0, missing))) if missing else part
