"""The forward TPU kernel of narrow products.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

A grid step computes both products of one tile of rows, for one sibling after the other.
x is read once and y written once; h = x A, its activation and the kept channels stay in
VMEM. h is also written if the backward pass needs it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.kernel_form import Arrays, Siblings
from lostjax.nn.kernels.tpu.blocks import (
    DEEP,
    DEEP_ROWS,
    GATHERED,
    LANES,
    ROWS,
    Cut,
    round_up,
)
from lostjax.nn.kernels.tpu.lanes import (
    Ref,
    Rows,
    Start,
    for_rows,
    for_strips,
    gather_columns,
    index_of,
    share_of,
    words_of,
)
from lostjax.nn.kernels.tpu.refs import Resident
from lostjax.typing import Activation, Array, Float


class _Made(NamedTuple):
    y: Ref
    hidden: Ref


class _Scratch(NamedTuple):
    # Shared by all siblings, one after the other.
    narrow: Ref
    through: Ref
    words: Ref


def forward_products(
    x_PM: Float[Array, "P M"],
    siblings: Siblings,
    *,
    activation: Activation | None,
    cut: Cut,
    keep_hidden: bool,
) -> tuple[Arrays, Arrays]:
    """Multiply rows by narrow matrices on a TPU.

    Rows and weights have the same dtype, bfloat16 or float32.

    Args:
        x_PM: rows (P, M).
        siblings: weights of the matrices, all of equal sizes.
        activation: activation between the factors; None for the identity.
        cut: rows of a grid step, from `lostjax.nn.kernels.tpu.blocks.cut_forward`.
        keep_hidden: also return x A, before the activation.

    Returns:
        y (P, N) of each sibling, and x A (P, R) of each sibling or an empty tuple.
    """
    n_rows, dtype, rows = x_PM.shape[0], x_PM.dtype, cut.rows
    rank, n_outputs = siblings[0].b_RN.shape
    passing = partial(_passing, rows)

    def each(make: Callable[[int], Any]) -> list[_Made]:
        made = _Made(make(n_outputs), make(rank) if keep_hidden else None)
        return [made] * len(siblings)

    residents = [resident_weights(weights) for weights in siblings]
    outputs = pl.pallas_call(
        partial(_kernel, activation=activation),
        # Rows beyond the array in the last tile are undefined, and not written back.
        grid=(pl.cdiv(n_rows, rows),),
        in_specs=[passing(x_PM.shape[1]), resident_specs(residents)],
        out_specs=each(passing),
        out_shape=each(lambda width: jax.ShapeDtypeStruct((n_rows, width), dtype)),
        scratch_shapes=[_scratch(rows, siblings[0], dtype)],
        compiler_params=pltpu.CompilerParams(
            # Steps are independent: several cores may share the grid.
            dimension_semantics=("parallel",),
            vmem_limit_bytes=cut.vmem_bytes,
        ),
        cost_estimate=_cost(x_PM, residents, keep_hidden=keep_hidden),
        name="lost_forward",
    )(x_PM, residents)
    hidden = tuple(made.hidden for made in outputs) if keep_hidden else ()
    return tuple(made.y for made in outputs), hidden


def words_for(rows: int, n_kept: int, dtype: jnp.dtype) -> Any:
    """Describe the VMEM into which `gather_columns` writes kept channels."""
    # 32-bit words, padded to 128 columns: the permutation moves whole words and lanes.
    shape = (rows * dtype.itemsize // 4, round_up(n_kept, LANES))
    return pltpu.VMEM(shape, jnp.int32)


def resident_weights(weights: BottleneckWeights) -> Resident:
    """Return the arrays that stay in VMEM, in the layout that the kernels read."""
    # float32: scalar memory holds 32-bit values.
    gamma_1 = jnp.asarray(weights.gamma, jnp.float32).reshape(1)
    given = Resident(gamma_1, weights.a_MR, weights.b_RN, weights.values_CN, None)
    if weights.kept_C is None:
        return given
    # Pad the indices to whole registers; -1 selects no column.
    missing = round_up(weights.kept_C.shape[0], LANES) - weights.kept_C.shape[0]
    kept_C = jnp.pad(weights.kept_C, (0, missing), constant_values=-1)
    return given._replace(kept=kept_C[None])


def resident_specs(residents: list[Resident]) -> list[Resident]:
    """Return block specs that hold whole arrays in VMEM during the whole grid."""

    def whole(array: jax.Array) -> pl.BlockSpec:
        at = (0,) * array.ndim
        # One buffer: the block never changes, so double buffering would waste VMEM.
        return pl.BlockSpec(array.shape, lambda *_: at, pipeline_mode=pl.Buffered(1))

    # gamma is a scalar operand, which the kernel reads from scalar memory.
    scalar = pl.BlockSpec(memory_space=pltpu.SMEM)
    return [jax.tree.map(whole, each)._replace(gamma=scalar) for each in residents]


def _passing(rows: int, width: int) -> pl.BlockSpec:
    return pl.BlockSpec((rows, width), lambda step: (step, 0))


def _scratch(rows: int, weights: BottleneckWeights, dtype: jnp.dtype) -> _Scratch:
    narrow = pltpu.VMEM((rows, weights.b_RN.shape[0]), dtype)
    if weights.values_CN is None:
        return _Scratch(narrow, None, None)
    n_kept = weights.values_CN.shape[0]
    through = pltpu.VMEM((rows, n_kept), dtype)
    return _Scratch(narrow, through, words_for(rows, n_kept, dtype))


class _Refs(NamedTuple):
    x: Ref
    own: Resident
    made: _Made
    scratch: _Scratch


def _kernel(x: Ref, residents: list[Resident], *rest: Any, activation: Any) -> None:
    *mades, scratch = rest
    for own, made in zip(residents, mades, strict=True):
        _multiply(_Refs(x, own, made, scratch), activation=activation)


def _multiply(ref: _Refs, *, activation: Activation | None) -> None:
    n_inputs, rank = ref.own.a.shape
    n_outputs = ref.own.b.shape[1]
    n_kept = 0 if ref.own.values is None else ref.own.values.shape[0]
    deep = n_inputs > DEEP

    def block(rows: Rows) -> None:
        # Separate from long products, between which the gathered values would spill.
        if n_kept and deep:
            for_rows(rows, partial(_gather, ref), most=GATHERED)
        hide = partial(_hide, ref, rows, activation=activation)
        for_strips(rank, hide, contraction=n_inputs, rows=rows.size)
        if n_kept:
            _scale_kept(ref, rows)
        widen = partial(_widen, ref, rows)
        for_strips(n_outputs, widen, contraction=rank + n_kept, rows=rows.size)

    for_rows(pl.ds(0, ref.x.shape[0]), block, most=DEEP_ROWS if deep else ROWS)


def _hide(
    ref: _Refs, rows: Rows, start: Start, width: int, *, activation: Activation | None
) -> None:
    (n_inputs, rank), columns = ref.own.a.shape, pl.ds(start, width)
    if ref.own.values is not None and n_inputs <= DEEP:
        strip, n_strips = index_of(start, LANES), pl.cdiv(rank, LANES)
        share = share_of(rows, strip, n_strips)
        # Unrolled, so that the compiler interleaves the gather with the product.
        for first in range(0, share.size, GATHERED):
            size = min(GATHERED, share.size - first)
            _gather(ref, pl.ds(share.start + first, size))
    h = _dot(ref.x[rows, :], ref.own.a[:, columns])
    if ref.made.hidden is not None:
        # Saved before the activation, because its derivative needs h.
        ref.made.hidden[rows, columns] = h.astype(ref.made.hidden.dtype)
    narrow = ref.own.gamma[0] * (activation(h) if activation else h)
    ref.scratch.narrow[rows, columns] = narrow.astype(ref.scratch.narrow.dtype)


def _gather(ref: _Refs, rows: Rows) -> None:
    gather_columns(
        ref.x, rows, ref.own.kept[...], ref.scratch.words, (0, ref.x.shape[1])
    )


def _scale_kept(ref: _Refs, rows: Rows) -> None:
    dtype, n_kept = ref.x.dtype, ref.own.values.shape[0]
    kept = pltpu.bitcast(ref.scratch.words[words_of(rows, dtype), :], dtype)[:, :n_kept]
    # v5e has no bfloat16 vector arithmetic: scale in float32, then round once.
    kept = (1 - ref.own.gamma[0]) * kept.astype(jnp.float32)
    ref.scratch.through[rows, :] = kept.astype(dtype)


def _widen(ref: _Refs, rows: Rows, start: Start, width: int) -> None:
    columns = pl.ds(start, width)
    # Two products into one float32 sum: no concatenation of narrow operands in VMEM.
    y = _dot(ref.scratch.narrow[rows, :], ref.own.b[:, columns])
    if ref.own.values is not None:
        y += _dot(ref.scratch.through[rows, :], ref.own.values[:, columns])
    ref.made.y[rows, columns] = y.astype(ref.made.y.dtype)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    # The matrix units accumulate in float32; do not round sums to bfloat16.
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def _cost(
    x_PM: jax.Array, residents: list[Resident], *, keep_hidden: bool
) -> pl.CostEstimate:
    n_rows, (rank, n_outputs) = x_PM.shape[0], residents[0].b.shape
    learnt = [w for own in residents for w in (own.a, own.b, own.values)]
    written = len(residents) * (n_outputs + keep_hidden * rank)
    read = x_PM.nbytes + sum(array.nbytes for array in jax.tree.leaves(residents))
    return pl.CostEstimate(
        flops=2 * n_rows * sum(w.size for w in learnt if w is not None),
        bytes_accessed=read + n_rows * written * x_PM.dtype.itemsize,
        transcendentals=n_rows * rank * len(residents),
    )
