"""The TPU kernel of one narrow product, backward.

With h = x A, z = gamma act(h), t = (1 - gamma) x_I and the output's gradient g:

    dh = gamma act'(h) (g B')                dA = x' dh        dB = z' g
    dx = dh A' + (1 - gamma) (g W') at I     dW = t' g
    dgamma = sum act(h) (g B') - sum x_I (g W')

A step of the grid reads one tile of x, g and h and writes one of dx, with the kept
channels' part already in it. The weights' gradients are float32 sums that stay in VMEM
to the end: x and g are read once. Where cores share a grid each has sums of its own.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.tpu_blocks import (
    LANES,
    LEAVING,
    ROWS,
    SUMMED,
    Chip,
    Cut,
    round_up,
)
from lostjax.nn.kernels.tpu_forward import gamma_of, resident, resident_weights
from lostjax.nn.kernels.tpu_lanes import (
    Ref,
    Rows,
    Start,
    even_rows,
    for_rows,
    for_strips,
    gather_columns,
    scatter_strip,
)
from lostjax.typing import Activation, Array, Float

_ROWS_ACROSS = (((1,), (1,)), ((), ()))


def backward_product(
    x_PM: Float[Array, "P M"],
    h_PR: Float[Array, "P R"],
    g_PN: Float[Array, "P N"],
    weights: BottleneckWeights,
    *,
    activation: Activation | None,
    cut: Cut,
    chip: Chip,
) -> tuple[jax.Array, BottleneckWeights]:
    """Propagate a gradient back on a TPU; all arrays are of one type.

    Args:
        x_PM: the rows.
        h_PR: x A, before the activation.
        g_PN: gradient of the output.
        weights: factors, and kept values or none.
        activation: what stands between the factors; None for nothing.
        cut: see `tpu_blocks.cut_backward`.
        chip: where it will run.

    Returns:
        The gradients of the rows and of the weights; that of gamma is float32.
    """
    rows, (n_rows, n_inputs) = cut.rows, x_PM.shape
    rank, n_outputs = weights.b_RN.shape
    sparse = weights.values_CN is not None
    n_kept = weights.values_CN.shape[0] if weights.values_CN is not None else 0
    dtype, sublanes = x_PM.dtype, 32 // x_PM.dtype.itemsize
    cores = min(chip.cores, pl.cdiv(n_rows, rows))
    steps = pl.cdiv(n_rows, rows * cores)
    # Rows that are not there would be summed: they are zeros.
    passing = [_lengthen(array, steps * rows * cores) for array in (x_PM, h_PR, g_PN)]
    summed_rank, summed_kept = round_up(rank, sublanes), round_up(n_kept, sublanes)
    sums = [(summed_rank, n_inputs), (summed_rank + summed_kept, n_outputs)]
    kind = dtype if cores == 1 else jnp.float32
    scratch = [
        *(pltpu.VMEM(shape, jnp.float32) for shape in sums),
        pltpu.VMEM((rows, rank), dtype),
        pltpu.VMEM((summed_rank, rows), dtype),
        pltpu.VMEM((summed_rank + summed_kept, rows), dtype),
        *(pltpu.VMEM((LEAVING, shape[1]), kind) for shape in sums),
    ]
    still = resident_weights(weights)
    if weights.kept_C is not None:
        still.append(_sources(weights.kept_C, n_inputs))
        scratch.append(pltpu.VMEM((rows, round_up(n_kept, LANES)), jnp.float32))
    gammas = (rank, n_kept) if sparse else (rank,)

    def tile(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((rows, width), lambda core, step: (core * steps + step, 0))

    dx_PM, da_sums, dbw_sums, *dgammas = pl.pallas_call(
        partial(_kernel, activation=activation, n_kept=n_kept),
        grid=(cores, steps),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            *(tile(array.shape[1]) for array in passing),
            *(resident(array.shape) for array in still),
        ],
        out_specs=[
            tile(n_inputs),
            *(pl.BlockSpec(memory_space=pl.ANY) for _ in sums),
            *(pl.BlockSpec((None, 1, w), lambda core, _: (core, 0, 0)) for w in gammas),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((passing[0].shape[0], n_inputs), dtype),
            *(jax.ShapeDtypeStruct((cores, *shape), kind) for shape in sums),
            *(jax.ShapeDtypeStruct((cores, 1, w), jnp.float32) for w in gammas),
        ],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=cut.vmem_bytes,
        ),
        cost_estimate=_cost(passing, still, rank * n_inputs, sums[1][0] * n_outputs),
        name="lost_backward",
    )(gamma_of(weights), *passing, *still)
    da_RM, dbw_KN = _whole(da_sums), _whole(dbw_sums)
    return dx_PM[:n_rows], BottleneckWeights(
        a_MR=da_RM[:rank].T.astype(dtype),
        b_RN=dbw_KN[:rank].astype(dtype),
        values_CN=dbw_KN[summed_rank:][:n_kept].astype(dtype) if sparse else None,
        gamma=sum(jnp.sum(part) for part in dgammas),
    )


def _kernel(
    gamma_ref: Ref,
    x_ref: Ref,
    h_ref: Ref,
    g_ref: Ref,
    a_ref: Ref,
    b_ref: Ref,
    *refs: Ref,
    activation: Activation | None,
    n_kept: int,
) -> None:
    rest = iter(refs)
    values_ref: Ref = next(rest) if n_kept else None
    kept_ref: Ref = next(rest) if n_kept else None
    sources_ref: Ref = next(rest) if n_kept else None
    dx_ref, da_ref, dbw_ref, dgamma_rank_ref = (next(rest) for _ in range(4))
    dgamma_kept_ref: Ref = next(rest) if n_kept else None
    da_sum_ref, dbw_sum_ref, dh_ref, dh_t_ref = (next(rest) for _ in range(4))
    narrow_t_ref, da_out_ref, dbw_out_ref = (next(rest) for _ in range(3))
    dkept_ref: Ref = next(rest) if n_kept else None
    gamma, dtype = gamma_ref[0], x_ref.dtype
    (n_inputs, rank), n_outputs = a_ref.shape, b_ref.shape[1]
    first_kept = narrow_t_ref.shape[0] - round_up(n_kept, 32 // dtype.itemsize)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for ref in (da_sum_ref, dbw_sum_ref, dgamma_rank_ref, dgamma_kept_ref):
            if ref is not None:
                ref[...] = jnp.zeros_like(ref)

    def unhide(rows: Rows, start: Start, width: int) -> None:
        columns = pl.ds(start, width)
        dz = _dot_across(g_ref[rows, :], b_ref[columns, :])
        h = h_ref[rows, columns].astype(jnp.float32)
        act, pull = jax.vjp(activation or (lambda h: h), h)
        dgamma_rank_ref[:, columns] += jnp.sum(dz * act, axis=0, keepdims=True)
        (dh,) = pull(gamma * dz)
        dh_ref[rows, columns] = dh.astype(dtype)
        dh_t_ref[columns, rows] = dh.T.astype(dtype)
        narrow_t_ref[columns, rows] = (gamma * act).T.astype(dtype)

    def ungather(few: Rows) -> None:
        kept = gather_columns(x_ref, few, kept_ref[...])[:, :n_kept]
        kept = kept.astype(jnp.float32)
        dkept = _dot_across(g_ref[few, :], values_ref[...])
        dgamma_kept_ref[...] -= jnp.sum(dkept * kept, axis=0, keepdims=True)
        dkept_ref[few, :n_kept] = (1 - gamma) * dkept
        columns = pl.ds(first_kept, n_kept)
        narrow_t_ref[columns, few] = ((1 - gamma) * kept).T.astype(dtype)

    def widen(rows: Rows, start: Start, width: int) -> None:
        columns = pl.ds(start, width)
        dx = _dot_across(dh_ref[rows, :], a_ref[columns, :])
        if n_kept:
            sources = sources_ref[:, pl.ds(start, LANES)]
            dx += scatter_strip(dkept_ref, rows, sources)[:, :width]
        dx_ref[rows, columns] = dx.astype(dtype)

    def block(rows: Rows) -> None:
        for_strips(rank, partial(unhide, rows), contraction=n_outputs)
        if n_kept:
            for_rows(rows, ungather, most=LANES)
        for_strips(n_inputs, partial(widen, rows), contraction=rank)

    for_rows(pl.ds(0, x_ref.shape[0]), block, most=ROWS)
    _add_products(da_sum_ref, dh_t_ref, x_ref)
    _add_products(dbw_sum_ref, narrow_t_ref, g_ref)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        _leave(da_sum_ref, da_out_ref, da_ref)
        _leave(dbw_sum_ref, dbw_out_ref, dbw_ref)


def _add_products(sum_ref: Ref, left_ref: Ref, right_ref: Ref) -> None:
    def block(rows: Rows) -> None:
        def strip(start: Start, width: int) -> None:
            columns = pl.ds(start, width)
            sum_ref[rows, columns] += jnp.dot(
                left_ref[rows, :],
                right_ref[:, columns],
                preferred_element_type=jnp.float32,
            )

        for_strips(sum_ref.shape[1], strip, contraction=right_ref.shape[0])

    n_rows = sum_ref.shape[0]
    for_rows(pl.ds(0, n_rows), block, most=even_rows(n_rows, most=SUMMED))


def _leave(sum_ref: Ref, out_ref: Ref, hbm_ref: Ref) -> None:
    core = pl.program_id(0)

    def block(rows: Rows) -> None:
        few = pl.ds(0, rows.size)
        out_ref[few, :] = sum_ref[rows, :].astype(out_ref.dtype)
        pltpu.sync_copy(out_ref.at[few, :], hbm_ref.at[core, rows, :])

    for_rows(pl.ds(0, sum_ref.shape[0]), block, most=LEAVING)


def _whole(sums: jax.Array) -> jax.Array:
    return jnp.sum(sums, axis=0) if sums.shape[0] > 1 else sums[0]


def _dot_across(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, y, _ROWS_ACROSS, preferred_element_type=jnp.float32)


def _sources(kept_C: jax.Array, n_inputs: int) -> jax.Array:
    # Which kept channel each input is, -1 for none.
    nowhere = jnp.full(round_up(n_inputs, LANES), -1, jnp.int32)
    return nowhere.at[kept_C].set(jnp.arange(kept_C.shape[0], dtype=jnp.int32))[None]


def _lengthen(array: jax.Array, n_rows: int) -> jax.Array:
    return jnp.pad(array, ((0, n_rows - array.shape[0]), (0, 0)))


def _cost(
    passing: list[jax.Array], still: list[jax.Array], *sums: int
) -> pl.CostEstimate:
    x_PM, h_PR, _ = passing
    weights = sum(array.size for array in still if array.dtype == x_PM.dtype)
    read = sum(array.nbytes for array in (*passing, *still))
    return pl.CostEstimate(
        flops=4 * x_PM.shape[0] * weights,
        bytes_accessed=read + x_PM.nbytes + x_PM.dtype.itemsize * sum(sums),
        transcendentals=h_PR.size,
    )
