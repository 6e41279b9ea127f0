"""The backward TPU kernel of narrow products: its call.

With h = x A, z = act(h), x_I and the gradient g of the output, the kernel
(`lostjax.nn.kernels.tpu.gradients`) computes

    dh = gamma act'(h) (g B')                dA = x' dh        dB = gamma z' g
    dx = dh A' + (1 - gamma) (g W') at I     dW = (1 - gamma) x_I' g
    dgamma = sum over B of (z' g) B - sum over W of (x_I' g) W

dx is summed over the siblings. A grid step reads one tile of x and of every g and h,
and writes one tile of dx, which includes the part of the kept channels. The gradients
of the weights are float32 sums that stay in VMEM until the last step, so that x and g
are read once. If several cores share a grid, each core has its own sums.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.kernel_form import Arrays, Gradients, Siblings
from lostjax.nn.kernels.tpu.blocks import LANES, LEAVING, Chip, Cut, round_up
from lostjax.nn.kernels.tpu.forward import (
    resident_specs,
    resident_weights,
    words_for,
)
from lostjax.nn.kernels.tpu.gradients import bring_back
from lostjax.nn.kernels.tpu.refs import KeptBack, Made, Passing, Resident, Scratch
from lostjax.typing import Activation, Array, Float


def backward_products(
    x_PM: Float[Array, "P M"],
    hidden: Arrays,
    gs: Arrays,
    siblings: Siblings,
    *,
    activation: Activation | None,
    cut: Cut,
    chip: Chip,
) -> Gradients:
    """Compute the gradients of rows and weights on a TPU.

    All arrays have the same dtype, bfloat16 or float32.

    Args:
        x_PM: rows (P, M).
        hidden: x A (P, R) of each sibling, before the activation.
        gs: gradients of the outputs, (P, N) per sibling.
        siblings: weights of the matrices, all of equal sizes.
        activation: activation between the factors; None for the identity.
        cut: rows of a grid step, from `lostjax.nn.kernels.tpu.blocks.cut_backward`.
        chip: the TPU to compile for.

    Returns:
        The gradients of the rows (P, M) and of each sibling's weights; those of gamma
        are float32.
    """
    shapes = _shapes(x_PM, siblings[0], cut, chip)
    # Pad with zeros: undefined rows of a partial tile would enter the weights' sums.
    lengthen = partial(_lengthen, n_rows=shapes.tiled_rows)
    passing = [
        Passing(lengthen(h_PR), lengthen(g_PN))
        for h_PR, g_PN in zip(hidden, gs, strict=True)
    ]
    residents = [_resident(weights, shapes.inputs) for weights in siblings]
    x_PM = lengthen(x_PM)
    dx_PM, *mades = pl.pallas_call(
        partial(bring_back, activation=activation, chip=chip),
        grid=(shapes.cores, shapes.steps),
        in_specs=[
            shapes.tile(shapes.inputs),
            [Passing(shapes.tile(shapes.rank), shapes.tile(shapes.outputs))]
            * len(siblings),
            resident_specs(residents),
        ],
        out_specs=[shapes.tile(shapes.inputs), *[shapes.out_specs()] * len(siblings)],
        out_shape=[
            jax.ShapeDtypeStruct(x_PM.shape, x_PM.dtype),
            *[shapes.out_shapes()] * len(siblings),
        ],
        scratch_shapes=[[shapes.kept_back()] * len(siblings), shapes.scratch()],
        compiler_params=pltpu.CompilerParams(
            # Cores share the first axis; the sums depend on the order of the second.
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=cut.vmem_bytes,
        ),
        cost_estimate=_cost(x_PM, passing, residents, shapes.sums),
        name="lost_backward",
    )(x_PM, passing, residents)
    # Cut off the padded rows, whose gradients are zero.
    n_rows = hidden[0].shape[0]
    return dx_PM[:n_rows], tuple(_gradients(made, shapes) for made in mades)


class _Shapes(NamedTuple):
    # All sizes from which the specs of the call are built.
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
        # Pad to whole sublanes, so that the rows of kept channels start aligned.
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
        # Sums of several cores are still to be added up: keep them in float32.
        return self.dtype if self.cores == 1 else jnp.float32

    def tile(self, width: int) -> pl.BlockSpec:
        steps = self.steps
        # Each core processes a contiguous range of row tiles.
        return pl.BlockSpec(
            (self.rows, width), lambda core, step: (core * steps + step, 0)
        )

    def out_specs(self) -> Made:
        # Too large for double-buffered blocks: the kernel itself copies them to HBM.
        sums = pl.BlockSpec(memory_space=pl.ANY)
        # dgamma is summed per column: the kernel needs no reduction across lanes.
        dgamma = pl.BlockSpec((None, 1, self.outputs), lambda core, _: (core, 0, 0))
        return Made(sums, sums, dgamma)

    def out_shapes(self) -> Made:
        da, dbw = (
            jax.ShapeDtypeStruct((self.cores, *shape), self.leaving)
            for shape in self.sums
        )
        dgamma = jax.ShapeDtypeStruct((self.cores, 1, self.outputs), jnp.float32)
        return Made(da, dbw, dgamma)

    def kept_back(self) -> KeptBack:
        """Describe the scratch memory that each sibling has of its own."""
        da_sum, dbw_sum = (pltpu.VMEM(shape, jnp.float32) for shape in self.sums)
        dh = pltpu.VMEM((self.rows, self.rank), self.dtype)
        # float32: 32-bit lanes for the permutations, and no rounding before dx.
        dkept = pltpu.VMEM((self.rows, round_up(self.kept, LANES)), jnp.float32)
        return KeptBack(da_sum, dbw_sum, dh, dkept if self.kept else None)

    def scratch(self) -> Scratch:
        """Describe the scratch memory that siblings share, one after the other."""
        da, dbw = self.sums
        words = words_for(self.rows, self.kept, self.dtype)
        return Scratch(
            z=pltpu.VMEM((self.rows, self.rank), self.dtype),
            dh_t=pltpu.VMEM((da[0], self.rows), self.dtype),
            narrow_t=pltpu.VMEM((dbw[0], self.rows), self.dtype),
            da_out=pltpu.VMEM((LEAVING, da[1]), self.leaving),
            dbw_out=pltpu.VMEM((LEAVING, dbw[1]), self.leaving),
            words=words if self.kept else None,
        )


def _shapes(
    x_PM: jax.Array, weights: BottleneckWeights, cut: Cut, chip: Chip
) -> _Shapes:
    n_rows, n_inputs = x_PM.shape
    rank, n_outputs = weights.b_RN.shape
    # No more cores than tiles: a core without rows would only add zeros.
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


def _gradients(made: Made, shapes: _Shapes) -> BottleneckWeights:
    da_RM, dbw_KN = _whole(made.da), _whole(made.dbw)
    # The gradient of the padded rows of the sums is dropped.
    dvalues_CN = dbw_KN[shapes.summed_rank :][: shapes.kept].astype(shapes.dtype)
    return BottleneckWeights(
        # The kernel computes the transpose (R, M).
        a_MR=da_RM[: shapes.rank].T.astype(shapes.dtype),
        b_RN=dbw_KN[: shapes.rank].astype(shapes.dtype),
        values_CN=dvalues_CN if shapes.kept else None,
        gamma=jnp.sum(made.dgamma),
    )


def _whole(sums: jax.Array) -> jax.Array:
    # One term per core; with one core a sum would copy the array.
    return jnp.sum(sums, axis=0) if sums.shape[0] > 1 else sums[0]


def _resident(weights: BottleneckWeights, n_inputs: int) -> Resident:
    given = resident_weights(weights)
    if weights.kept_C is None:
        return given
    # For each input, its index among the kept channels, or -1.
    nowhere = jnp.full(round_up(n_inputs, LANES), -1, jnp.int32)
    numbers = jnp.arange(weights.kept_C.shape[0], dtype=jnp.int32)
    return given._replace(sources=nowhere.at[weights.kept_C].set(numbers)[None])


def _lengthen(array: jax.Array, n_rows: int) -> jax.Array:
    return jnp.pad(array, ((0, n_rows - array.shape[0]), (0, 0)))


def _cost(
    x_PM: jax.Array,
    passing: list[Passing],
    residents: list[Resident],
    sums: list[tuple[int, int]],
) -> pl.CostEstimate:
    learnt = [w for own in residents for w in (own.a, own.b, own.values)]
    read = jax.tree.leaves((x_PM, passing, residents))
    written = len(residents) * sum(height * width for height, width in sums)
    return pl.CostEstimate(
        flops=4 * x_PM.shape[0] * sum(w.size for w in learnt if w is not None),
        bytes_accessed=sum(array.nbytes for array in read)
        + x_PM.nbytes
        + x_PM.dtype.itemsize * written,
        transcendentals=sum(each.h.size for each in passing),
    )
