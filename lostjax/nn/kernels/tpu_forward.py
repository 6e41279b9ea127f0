"""The TPU kernel of one narrow product, forward.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

A step of the grid takes one tile of rows through both products: h = x A, its activation
and the kept channels live in VMEM only, and y is written once. h is written too where
the backward pass will want it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.tpu_blocks import (
    DEEP,
    DEEP_ROWS,
    GATHERED,
    LANES,
    ROWS,
    Cut,
    round_up,
)
from lostjax.nn.kernels.tpu_lanes import (
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
from lostjax.typing import Activation, Array, Float


def forward_product(
    x_PM: Float[Array, "P M"],
    weights: BottleneckWeights,
    *,
    activation: Activation | None,
    cut: Cut,
    keep_hidden: bool,
) -> tuple[jax.Array, ...]:
    """Multiply on a TPU; rows and weights are of one type.

    Args:
        x_PM: the rows.
        weights: factors, and kept values or none.
        activation: what stands between the factors; None for nothing.
        cut: see `tpu_blocks.cut_forward`.
        keep_hidden: also return x A, before the activation.

    Returns:
        (y_PN,) or (y_PN, h_PR).
    """
    n_rows, dtype, rows = x_PM.shape[0], x_PM.dtype, cut.rows
    rank, n_outputs = weights.b_RN.shape
    rows_of = partial(_passing, rows)
    names = ["gamma", "x", "a", "b", "y", "narrow"]
    widths = (n_outputs, rank) if keep_hidden else (n_outputs,)
    scratch = [pltpu.VMEM((rows, rank), dtype)]
    if weights.values_CN is not None:
        n_kept = weights.values_CN.shape[0]
        scratch += [pltpu.VMEM((rows, n_kept), dtype), words_for(rows, n_kept, dtype)]
        names += ["values", "kept", "through", "words"]
    inputs = [gamma_of(weights), x_PM, *resident_weights(weights)]
    specs = [pl.BlockSpec(memory_space=pltpu.SMEM), rows_of(x_PM.shape[1])]
    names += ["hidden"] if keep_hidden else []
    outputs = pl.pallas_call(
        partial(
            _kernel,
            names=tuple(name for name in _Refs._fields if name in names),
            activation=activation,
        ),
        grid=(pl.cdiv(n_rows, rows),),
        in_specs=specs + [resident(weight.shape) for weight in inputs[2:]],
        out_specs=[rows_of(width) for width in widths],
        out_shape=[jax.ShapeDtypeStruct((n_rows, width), dtype) for width in widths],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=cut.vmem_bytes
        ),
        cost_estimate=_cost(x_PM, weights, widths),
        name="lost_forward",
    )(*inputs)
    return tuple(outputs)


def words_for(rows: int, n_kept: int, dtype: jnp.dtype) -> Any:
    """Describe the memory that takes kept channels, see `gather_columns`."""
    shape = (rows * dtype.itemsize // 4, round_up(n_kept, LANES))
    return pltpu.VMEM(shape, jnp.int32)


def resident(shape: tuple[int, ...]) -> pl.BlockSpec:
    """Keep a whole array in VMEM for all of the grid, once."""
    return pl.BlockSpec(
        shape, lambda *_: (0,) * len(shape), pipeline_mode=pl.Buffered(1)
    )


def gamma_of(weights: BottleneckWeights) -> Float[Array, "1"]:
    """Give gamma as the kernels read it."""
    return jnp.asarray(weights.gamma, jnp.float32).reshape(1)


def resident_weights(weights: BottleneckWeights) -> list[jax.Array]:
    """List what stays in VMEM: factors, kept values, and padded indices of channels."""
    if weights.values_CN is None or weights.kept_C is None:
        return [weights.a_MR, weights.b_RN]
    missing = round_up(weights.kept_C.shape[0], LANES) - weights.kept_C.shape[0]
    kept_1C = jnp.pad(weights.kept_C, (0, missing), constant_values=-1)[None]
    return [weights.a_MR, weights.b_RN, weights.values_CN, kept_1C]


def _passing(rows: int, width: int) -> pl.BlockSpec:
    return pl.BlockSpec((rows, width), lambda step: (step, 0))


class _Refs(NamedTuple):
    gamma: Ref
    x: Ref
    a: Ref
    b: Ref
    values: Ref
    kept: Ref
    y: Ref
    hidden: Ref
    narrow: Ref
    through: Ref
    words: Ref


def _kernel(*refs: Ref, names: tuple[str, ...], activation: Activation | None) -> None:
    ref = _Refs(**dict.fromkeys(_Refs._fields) | dict(zip(names, refs, strict=True)))
    n_inputs, rank = ref.a.shape
    n_outputs = ref.b.shape[1]
    n_kept = 0 if ref.values is None else ref.values.shape[0]
    deep = n_inputs > DEEP

    def block(rows: Rows) -> None:
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
    (n_inputs, rank), columns = ref.a.shape, pl.ds(start, width)
    if ref.values is not None and n_inputs <= DEEP:
        strip, n_strips = index_of(start, LANES), pl.cdiv(rank, LANES)
        share = share_of(rows, strip, n_strips)
        for first in range(0, share.size, GATHERED):  # no loop: between the products
            size = min(GATHERED, share.size - first)
            _gather(ref, pl.ds(share.start + first, size))
    h = _dot(ref.x[rows, :], ref.a[:, columns])
    if ref.hidden is not None:
        ref.hidden[rows, columns] = h.astype(ref.hidden.dtype)
    narrow = ref.gamma[0] * (activation(h) if activation else h)
    ref.narrow[rows, columns] = narrow.astype(ref.narrow.dtype)


def _gather(ref: _Refs, rows: Rows) -> None:
    gather_columns(ref.x, rows, ref.kept[...], ref.words, (0, ref.x.shape[1]))


def _scale_kept(ref: _Refs, rows: Rows) -> None:
    dtype, n_kept = ref.x.dtype, ref.values.shape[0]
    kept = pltpu.bitcast(ref.words[words_of(rows, dtype), :], dtype)[:, :n_kept]
    kept = (1 - ref.gamma[0]) * kept.astype(jnp.float32)
    ref.through[rows, :] = kept.astype(dtype)


def _widen(ref: _Refs, rows: Rows, start: Start, width: int) -> None:
    columns = pl.ds(start, width)
    y = _dot(ref.narrow[rows, :], ref.b[:, columns])
    if ref.values is not None:
        y += _dot(ref.through[rows, :], ref.values[:, columns])
    ref.y[rows, columns] = y.astype(ref.y.dtype)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def _cost(
    x_PM: jax.Array, weights: BottleneckWeights, widths: tuple[int, ...]
) -> pl.CostEstimate:
    n_rows = x_PM.shape[0]
    read = [x_PM, *resident_weights(weights)]
    learnt = (weights.a_MR, weights.b_RN, weights.values_CN)
    return pl.CostEstimate(
        flops=2 * n_rows * sum(w.size for w in learnt if w is not None),
        bytes_accessed=sum(array.nbytes for array in read)
        + n_rows * sum(widths) * x_PM.dtype.itemsize,
        transcendentals=n_rows * weights.a_MR.shape[1],
    )
