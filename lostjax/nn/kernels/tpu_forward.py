"""The TPU kernel of one narrow product, forward.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

A step of the grid takes one tile of rows through both products: h = x A, its activation
and the kept channels live in VMEM only, and y is written once. h is written too where
the backward pass will want it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.tpu_blocks import (
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
    widths = (n_outputs, rank) if keep_hidden else (n_outputs,)
    scratch = [pltpu.VMEM((rows, rank), dtype)]
    if weights.values_CN is not None:
        scratch.append(pltpu.VMEM((rows, weights.values_CN.shape[0]), dtype))
    inputs = [gamma_of(weights), x_PM, *resident_weights(weights)]
    specs = [pl.BlockSpec(memory_space=pltpu.SMEM), rows_of(x_PM.shape[1])]
    outputs = pl.pallas_call(
        partial(
            _kernel,
            activation=activation,
            sparse=weights.values_CN is not None,
            keep_hidden=keep_hidden,
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


def _kernel(
    gamma_ref: Ref,
    x_ref: Ref,
    a_ref: Ref,
    b_ref: Ref,
    *refs: Ref,
    activation: Activation | None,
    sparse: bool,
    keep_hidden: bool,
) -> None:
    rest = iter(refs)
    values_ref: Ref = next(rest) if sparse else None
    kept_ref: Ref = next(rest) if sparse else None
    y_ref: Ref = next(rest)
    hidden_ref: Ref = next(rest) if keep_hidden else None
    narrow_ref: Ref = next(rest)
    through_ref: Ref = next(rest) if sparse else None
    gamma, dtype = gamma_ref[0], x_ref.dtype
    (n_inputs, rank), n_outputs = a_ref.shape, b_ref.shape[1]
    n_kept = values_ref.shape[0] if sparse else 0

    def block(rows: Rows) -> None:
        def hide(start: Start, width: int) -> None:
            columns = pl.ds(start, width)
            h = _dot(x_ref[rows, :], a_ref[:, columns])
            if keep_hidden:
                hidden_ref[rows, columns] = h.astype(dtype)
            narrow = gamma * (activation(h) if activation else h)
            narrow_ref[rows, columns] = narrow.astype(dtype)

        def gather(few: Rows) -> None:
            kept = gather_columns(x_ref, few, kept_ref[...])[:, :n_kept]
            kept = (1 - gamma) * kept.astype(jnp.float32)
            through_ref[few, :] = kept.astype(dtype)

        def widen(start: Start, width: int) -> None:
            columns = pl.ds(start, width)
            y = _dot(narrow_ref[rows, :], b_ref[:, columns])
            if sparse:
                y += _dot(through_ref[rows, :], values_ref[:, columns])
            y_ref[rows, columns] = y.astype(dtype)

        for_strips(rank, hide, contraction=n_inputs)
        if sparse:
            for_rows(rows, gather, most=GATHERED)
        for_strips(n_outputs, widen, contraction=rank + n_kept)

    for_rows(pl.ds(0, x_ref.shape[0]), block, most=ROWS)


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
