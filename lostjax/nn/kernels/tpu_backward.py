"""The TPU kernel of one narrow product, backward: how it is called.

With h = x A, z = act(h), x_I and the output's gradient g, the kernel
(`tpu_gradients`) makes

    dh = gamma act'(h) (g B')                dA = x' dh        dB = gamma z' g
    dx = dh A' + (1 - gamma) (g W') at I     dW = (1 - gamma) x_I' g
    dgamma = sum over B of (z' g) B - sum over W of (x_I' g) W

A step of the grid reads one tile of x, g and h and writes one of dx, with the kept
channels' part already in it. The weights' gradients are float32 sums that stay in VMEM
to the end: x and g are read once. Where cores share a grid each has sums of its own.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.tpu_blocks import LANES, LEAVING, Chip, Cut, round_up
from lostjax.nn.kernels.tpu_forward import (
    gamma_of,
    resident,
    resident_weights,
    words_for,
)
from lostjax.nn.kernels.tpu_gradients import bring_back, name_refs
from lostjax.typing import Activation, Array, Float


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
    shapes = _shapes(x_PM, weights, cut, chip)
    # Rows that are not there would be summed: they are zeros.
    passing = [_lengthen(array, shapes.tiled_rows) for array in (x_PM, h_PR, g_PN)]
    still = resident_weights(weights)
    if weights.kept_C is not None:
        still.append(_sources(weights.kept_C, shapes.inputs))
    dx_PM, da_sums, dbw_sums, dgammas = pl.pallas_call(
        partial(
            bring_back,
            names=name_refs(sparse=shapes.kept > 0),
            activation=activation,
            chip=chip,
        ),
        grid=(shapes.cores, shapes.steps),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            *(shapes.tile(array.shape[1]) for array in passing),
            *(resident(array.shape) for array in still),
        ],
        out_specs=shapes.out_specs(),
        out_shape=shapes.out_shapes(),
        scratch_shapes=shapes.scratch(),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=cut.vmem_bytes,
        ),
        cost_estimate=_cost(passing, still, shapes.sums),
        name="lost_backward",
    )(gamma_of(weights), *passing, *still)
    da_RM, dbw_KN = _whole(da_sums), _whole(dbw_sums)
    dvalues_CN = dbw_KN[shapes.summed_rank :][: shapes.kept].astype(x_PM.dtype)
    return dx_PM[: x_PM.shape[0]], BottleneckWeights(
        a_MR=da_RM[: shapes.rank].T.astype(x_PM.dtype),
        b_RN=dbw_KN[: shapes.rank].astype(x_PM.dtype),
        values_CN=dvalues_CN if shapes.kept else None,
        gamma=jnp.sum(dgammas),
    )


class _Shapes(NamedTuple):
    # Everything that the call's specs are made of.
    rows: int
    steps: int
    cores: int
    inputs: int
    outputs: int
    rank: int
    kept: int
    dtype: jnp.dtype

    @property
    def tiled_rows(self) -> int:
        return self.rows * self.steps * self.cores

    @property
    def summed_rank(self) -> int:
        return round_up(self.rank, 32 // self.dtype.itemsize)

    @property
    def sums(self) -> list[tuple[int, int]]:
        summed_kept = round_up(self.kept, 32 // self.dtype.itemsize)
        return [
            (self.summed_rank, self.inputs),
            (self.summed_rank + summed_kept, self.outputs),
        ]

    @property
    def leaving(self) -> Any:
        # Sums of several cores are still to be summed.
        return self.dtype if self.cores == 1 else jnp.float32

    def tile(self, width: int) -> pl.BlockSpec:
        steps = self.steps
        return pl.BlockSpec(
            (self.rows, width), lambda core, step: (core * steps + step, 0)
        )

    def out_specs(self) -> list[pl.BlockSpec]:
        dgamma = pl.BlockSpec((None, 1, self.outputs), lambda core, _: (core, 0, 0))
        sums = [pl.BlockSpec(memory_space=pl.ANY) for _ in self.sums]
        return [self.tile(self.inputs), *sums, dgamma]

    def out_shapes(self) -> list[jax.ShapeDtypeStruct]:
        return [
            jax.ShapeDtypeStruct((self.tiled_rows, self.inputs), self.dtype),
            *(
                jax.ShapeDtypeStruct((self.cores, *shape), self.leaving)
                for shape in self.sums
            ),
            jax.ShapeDtypeStruct((self.cores, 1, self.outputs), jnp.float32),
        ]

    def scratch(self) -> list[Any]:
        """List the memory of the kernel, in the order of `tpu_gradients.Refs`."""
        da, dbw = self.sums
        arrays = [
            *(pltpu.VMEM(shape, jnp.float32) for shape in self.sums),
            pltpu.VMEM((self.rows, self.rank), self.dtype),
            pltpu.VMEM((self.rows, self.rank), self.dtype),
            pltpu.VMEM((da[0], self.rows), self.dtype),
            pltpu.VMEM((dbw[0], self.rows), self.dtype),
            *(pltpu.VMEM((LEAVING, shape[1]), self.leaving) for shape in self.sums),
        ]
        if self.kept:
            arrays += [
                pltpu.VMEM((self.rows, round_up(self.kept, LANES)), jnp.float32),
                words_for(self.rows, self.kept, self.dtype),
            ]
        return arrays


def _shapes(
    x_PM: jax.Array, weights: BottleneckWeights, cut: Cut, chip: Chip
) -> _Shapes:
    n_rows, n_inputs = x_PM.shape
    rank, n_outputs = weights.b_RN.shape
    cores = min(chip.cores, pl.cdiv(n_rows, cut.rows))
    return _Shapes(
        rows=cut.rows,
        steps=pl.cdiv(n_rows, cut.rows * cores),
        cores=cores,
        inputs=n_inputs,
        outputs=n_outputs,
        rank=rank,
        kept=0 if weights.values_CN is None else weights.values_CN.shape[0],
        dtype=x_PM.dtype,
    )


def _whole(sums: jax.Array) -> jax.Array:
    return jnp.sum(sums, axis=0) if sums.shape[0] > 1 else sums[0]


def _sources(kept_C: jax.Array, n_inputs: int) -> jax.Array:
    # Which kept channel each input is, -1 for none.
    nowhere = jnp.full(round_up(n_inputs, LANES), -1, jnp.int32)
    return nowhere.at[kept_C].set(jnp.arange(kept_C.shape[0], dtype=jnp.int32))[None]


def _lengthen(array: jax.Array, n_rows: int) -> jax.Array:
    return jnp.pad(array, ((0, n_rows - array.shape[0]), (0, 0)))


def _cost(
    passing: list[jax.Array], still: list[jax.Array], sums: list[tuple[int, int]]
) -> pl.CostEstimate:
    x_PM, h_PR, _ = passing
    weights = sum(array.size for array in still if array.dtype == x_PM.dtype)
    read = sum(array.nbytes for array in (*passing, *still))
    return pl.CostEstimate(
        flops=4 * x_PM.shape[0] * weights,
        bytes_accessed=read
        + x_PM.nbytes
        + x_PM.dtype.itemsize * sum(height * width for height, width in sums),
        transcendentals=h_PR.size,
    )
