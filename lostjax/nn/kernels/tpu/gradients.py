"""The backward TPU kernel of narrow products: one step of its grid.

Each stage loops over all rows of the step before the next stage starts: two unrolled
stages side by side would need more registers than there are. Blocks of one stage can be
unrolled, and hide each other's latency. Permutations and transposes are interleaved
with products that keep the matrix units busy and leave the permute units idle:
transposes with g W', and the gather of kept channels with x' dh. That product reads the
same strip of x, and the kept channels are needed only after it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.tpu.blocks import (
    GATHERED,
    LANES,
    LEAVING,
    ROWS,
    SUMMED,
    TURNED,
    Chip,
)
from lostjax.nn.kernels.tpu.lanes import (
    Ref,
    Rows,
    Start,
    even_rows,
    for_blocks,
    for_rows,
    for_strips,
    gather_columns,
    index_of,
    scatter_strip,
    share_of,
    words_of,
)
from lostjax.nn.kernels.tpu.refs import Passing, Refs, Resident
from lostjax.typing import Activation

# Contract the last axes: x y' without a transposed copy of y.
_ROWS_ACROSS = (((1,), (1,)), ((), ()))


def bring_back(
    x: Ref,
    passing: list[Passing],
    residents: list[Resident],
    dx: Ref,
    *rest: Any,
    activation: Activation | None,
    chip: Chip,
) -> None:
    """Compute one grid step: its rows of dx, and its share of the weight gradients.

    Args:
        x: rows of the step.
        passing: `Passing` of each sibling.
        residents: `Resident` of each sibling.
        dx: output, the gradient of the rows.
        rest: `Made` of each sibling, the list of their `KeptBack`, and `Scratch`.
        activation: activation between the factors; None for the identity.
        chip: the TPU to compile for.
    """
    *mades, kept_back, scratch = rest
    siblings = [
        Refs(x, dx, by, own, made, back, scratch)
        for by, own, made, back in zip(
            passing, residents, mades, kept_back, strict=True
        )
    ]

    # Scratch memory is uninitialised: zero the sums in the first step of each core.
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in siblings:
            for sums in (ref.back.da_sum, ref.back.dbw_sum, ref.made.dgamma):
                sums[...] = jnp.zeros_like(sums)

    for ref in siblings:
        _add_gradients(ref, activation=activation, chip=chip)
    # The scatter takes longer than a narrow product: use the smaller blocks.
    narrow = residents[0].b.shape[0] <= LANES
    size = chip.block if narrow or len(siblings) > 1 else ROWS
    for_blocks(siblings[0].rows, partial(_widen, siblings), size=size)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        for ref in siblings:
            _finish(ref)


def _add_gradients(ref: Refs, *, activation: Activation | None, chip: Chip) -> None:
    sparse = ref.own.values is not None
    unhide = partial(_unhide, ref, activation=activation)
    for_blocks(ref.rows, unhide, size=chip.block)
    for_blocks(ref.rows, partial(_transpose, ref), size=ROWS)
    shallow = ref.rows.size <= ROWS
    # Steps of 128 rows gather in a separate loop, as does the forward kernel.
    if sparse and shallow:
        gather = partial(_gather, ref, start=0, width=ref.x.shape[1])
        for_rows(ref.rows, gather, most=GATHERED)
    beside = partial(_gather, ref) if sparse and not shallow else None
    summed = chip.shallow_summed if shallow else SUMMED
    _add_products(ref.back.da_sum, ref.scratch.dh_t, ref.x, summed, beside)
    if sparse:
        for_rows(ref.rows, partial(_transpose_kept, ref), most=TURNED)
    _add_products(ref.back.dbw_sum, ref.scratch.narrow_t, ref.by.g, summed)


def _unhide(ref: Refs, rows: Rows, *, activation: Activation | None) -> None:
    dtype, (rank, n_outputs) = ref.x.dtype, ref.own.b.shape

    def strip(start: Start, width: int) -> None:
        columns = pl.ds(start, width)
        dz = ref.own.gamma[0] * _dot_across(ref.by.g[rows, :], ref.own.b[columns, :])
        # v5e has no bfloat16 vector arithmetic: activations run in float32.
        h = ref.by.h[rows, columns].astype(jnp.float32)
        # vjp inside of the kernel: the derivative of any elementwise activation.
        z, pull = jax.vjp(activation or (lambda h: h), h)
        (dh,) = pull(dz)
        # Round to the dtype of the products, as XLA's form does between its products.
        ref.back.dh[rows, columns] = dh.astype(dtype)
        ref.scratch.z[rows, columns] = z.astype(dtype)

    for_strips(rank, strip, contraction=n_outputs, rows=rows.size)


def _transpose(ref: Refs, rows: Rows) -> None:
    def strip(start: Start, width: int) -> None:
        columns = pl.ds(start, width)
        # Left operands of the sums over rows: transposed once, not in every strip.
        ref.scratch.dh_t[columns, rows] = ref.back.dh[rows, columns].T
        ref.scratch.narrow_t[columns, rows] = ref.scratch.z[rows, columns].T

    for_strips(ref.scratch.z.shape[1], strip, contraction=LANES, rows=rows.size)
    if ref.own.values is not None:
        dkept = _dot_across(ref.by.g[rows, :], ref.own.values[...])
        ref.back.dkept[rows, : ref.own.values.shape[0]] = (1 - ref.own.gamma[0]) * dkept


def _widen(siblings: list[Refs], rows: Rows) -> None:
    dx_ref, (n_inputs, rank) = siblings[0].dx, siblings[0].own.a.shape

    def strip(start: Start, width: int) -> None:
        columns = pl.ds(start, width)
        # Sum over siblings in float32 and round once.
        dx = jnp.zeros((rows.size, width), jnp.float32)
        for ref in siblings:
            dx += _dot_across(ref.back.dh[rows, :], ref.own.a[columns, :])
            if ref.own.values is not None:
                # -1 in `sources` selects zero: no scatter over dx.
                sources = ref.own.sources[:, pl.ds(start, LANES)]
                dx += scatter_strip(ref.back.dkept, rows, sources)[:, :width]
        dx_ref[rows, columns] = dx.astype(dx_ref.dtype)

    contraction = rank * len(siblings)
    for_strips(n_inputs, strip, contraction=contraction, rows=rows.size)


def _transpose_kept(ref: Refs, rows: Rows) -> None:
    dtype, n_kept = ref.x.dtype, ref.own.values.shape[0]
    kept = pltpu.bitcast(ref.scratch.words[words_of(rows, dtype), :], dtype)
    ref.scratch.narrow_t[ref.kept_rows, rows] = kept[:, :n_kept].T


def _gather(ref: Refs, share: Rows, start: Start, width: int) -> None:
    # Unrolled, so that the compiler interleaves the gather with the product.
    for first in range(0, share.size, GATHERED):
        few = pl.ds(share.start + first, min(GATHERED, share.size - first))
        gather_columns(ref.x, few, ref.own.kept[...], ref.scratch.words, (start, width))


def _add_products(
    sum_ref: Ref,
    left_ref: Ref,
    right_ref: Ref,
    most: int,
    beside: Callable[[Rows, Start, int], None] | None = None,
) -> None:
    (n_sums, n_columns), depth = sum_ref.shape, right_ref.shape[0]
    size = even_rows(n_sums, most=most)
    # Blocks of about equal size instead of a short last one.

    def block(sums: Rows) -> None:
        # Distribute the gathered rows over the blocks, so that all hide some of them.
        share = share_of(
            pl.ds(0, depth),
            index_of(sums.start, size),
            pl.cdiv(n_sums, size),
        )

        def strip(start: Start, width: int) -> None:
            if beside:
                beside(share, start, width)
            columns = pl.ds(start, width)
            sum_ref[sums, columns] += jnp.dot(
                left_ref[sums, :],
                right_ref[:, columns],
                preferred_element_type=jnp.float32,
            )

        for_strips(n_columns, strip, contraction=depth, rows=ROWS)

    for_rows(pl.ds(0, n_sums), block, most=size)


def _finish(ref: Refs) -> None:
    gamma, first_kept = ref.own.gamma[0], ref.kept_rows.start
    n_rank, n_sums = ref.back.da_sum.shape[0], ref.back.dbw_sum.shape[0]
    _leave(ref.back.da_sum, ref.scratch.da_out, ref.made.da, pl.ds(0, n_rank), 1.0)
    leave = partial(_leave, ref.back.dbw_sum, ref.scratch.dbw_out, ref.made.dbw)
    # dgamma needs the sums before they are scaled by gamma.
    _add_to_dgamma(ref, ref.back.dbw_sum, ref.own.b, 1.0)
    leave(pl.ds(0, first_kept), gamma)
    if ref.own.values is not None:
        kept = pl.ds(first_kept, n_sums - first_kept)
        _add_to_dgamma(ref, ref.back.dbw_sum.at[kept, :], ref.own.values, -1.0)
        leave(kept, 1 - gamma)


def _add_to_dgamma(ref: Refs, sum_ref: Ref, weights_ref: Ref, sign: float) -> None:
    def block(rows: Rows) -> None:
        products = sum_ref[rows, :] * weights_ref[rows, :].astype(jnp.float32)
        ref.made.dgamma[...] += sign * jnp.sum(products, axis=0, keepdims=True)
        # Sum over rows only; XLA adds up the columns afterwards.

    for_rows(pl.ds(0, weights_ref.shape[0]), block, most=16)


def _leave(
    sum_ref: Ref, out_ref: Ref, hbm_ref: Ref, rows: Rows, factor: jax.Array | float
) -> None:
    core = pl.program_id(0)

    def block(rows: Rows) -> None:
        few = pl.ds(0, rows.size)
        out_ref[few, :] = (factor * sum_ref[rows, :]).astype(out_ref.dtype)
        # Cast and copy in pieces: a whole cast copy would take too much VMEM.
        pltpu.sync_copy(out_ref.at[few, :], hbm_ref.at[core, rows, :])

    for_rows(rows, block, most=LEAVING)


def _dot_across(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, y, _ROWS_ACROSS, preferred_element_type=jnp.float32)
