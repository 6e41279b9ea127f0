"""Products of narrow matrices on a mesh: every device multiplies what it holds.

XLA can cut its own products over devices, but not a kernel. `ShardedProducts` runs any
form of the product under `jax.shard_map`, with rows cut as the batch is:

    outputs cut    x (P, M) whole, A whole, [B; W] by columns: each device has its
                   columns of y, and nothing travels forward
    inputs cut     x and A by inputs, B and W by rank and channels: x A is summed over
                   devices, each keeps its share of the ranks, and the partial y are
                   summed; with channel groups each gathers from its own x

Weights arrive as the specs say: those stored cut over an axis of the rows (fsdp) are
gathered, in the type that is computed in. Their gradients are summed over the axes on
which they are whole, that of x over the axis of the outputs: shard_map's transpose does
both. No row of x travels, and as few of its gradient as a dense matrix would send.

x A is summed over devices before its activation, amid what a kernel does in one piece:
products whose inputs are cut have XLA's form, and so do sizes that the mesh does not
divide. The log says so, once.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec
from jax.typing import DTypeLike

from lostjax.nn.kernels.bottleneck import (
    BottleneckProducts,
    BottleneckWeights,
    bottleneck_products,
)
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.typing import Activation, Array, Float


@dataclasses.dataclass(frozen=True)
class ShardedProducts:
    """Stands where `bottleneck_products` does and means the same, on a mesh.

    Attributes:
        product: what a device does with its own rows and weights.
        mesh: the devices; each has a piece of every array.
        rows: mesh axes that cut the rows.
        inputs: mesh axis that cuts the inputs of x, or None.
        outputs: mesh axis that cuts the outputs, or None. Devices along an axis that is
            named nowhere all do the same.

    Raises:
        ValueError: an axis that the mesh does not have.

    Example:
        columns = ShardedProducts(mosaic_products, mesh, ("data",), outputs="tensor")
        layer = LowRankSparse(features=2736, rank=256, product=columns)
    """

    product: BottleneckProducts
    mesh: Mesh
    rows: tuple[str, ...]
    inputs: str | None = None
    outputs: str | None = None

    def __post_init__(self) -> None:
        """Refuse axes that the mesh does not have."""
        for axis in (*self.rows, self.inputs, self.outputs):
            if axis is not None and axis not in self.mesh.shape:
                raise ValueError(
                    f"axis {axis!r} is not one of the mesh's: "
                    f"{', '.join(self.mesh.axis_names)}"
                )

    def __call__(
        self,
        x_PM: Float[Array, "P M"],
        siblings: Sequence[BottleneckWeights],
        *,
        activation: Activation | None,
        channel_groups: int = 1,
        dtype: DTypeLike | None = None,
    ) -> tuple[jax.Array, ...]:
        """Apply sibling matrices to the same rows, as `bottleneck_products` does.

        Args:
            x_PM: all rows.
            siblings: their weights, whole; all keep channels, or none does.
            activation: what stands between the factors; None for nothing.
            channel_groups: groups of inputs that hold equal numbers of kept channels;
                where inputs are cut, a multiple of the pieces.
            dtype: type to compute in; None takes the wider of rows and weights.

        Returns:
            One array (P, N_i) per sibling.
        """
        dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
        multiply: BottleneckProducts = self._on_mesh
        if reason := self._misfit(x_PM, siblings, channel_groups):
            log_once(f"XLA's form of a narrow product, cut by XLA: {reason}")
            multiply = bottleneck_products
        # Cast here: what devices send each other is of the narrower type.
        return multiply(
            x_PM.astype(dtype),
            [weights.astype(dtype) for weights in siblings],
            activation=activation,
            channel_groups=channel_groups,
            dtype=dtype,
        )

    def _on_mesh(
        self,
        x_PM: jax.Array,
        siblings: Sequence[BottleneckWeights],
        *,
        activation: Activation | None,
        channel_groups: int,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, ...]:
        inputs, outputs = self._cut(self.inputs), self._cut(self.outputs)
        # Axes of one device are named too: nothing is summed over them.
        alone = (axis for axis, size in self.mesh.shape.items() if size == 1)
        rows = tuple(dict.fromkeys((*self.rows, *alone)))
        product = self.product
        if inputs is not None:
            if product is not bottleneck_products:
                log_once(
                    "XLA's form of a narrow product, no kernel: its inputs are cut "
                    f"over {inputs}, and x A is summed before its activation"
                )
            product = partial(_sum_parts, axis=inputs, pieces=self.mesh.shape[inputs])
        multiply = jax.shard_map(
            partial(
                product,
                activation=activation,
                channel_groups=channel_groups,
                dtype=dtype,
            ),
            mesh=self.mesh,
            in_specs=(
                Spec(rows, inputs),
                [_specs(weights, inputs, outputs) for weights in siblings],
            ),
            out_specs=Spec(rows, outputs),
            # A kernel does not say over which axes its results vary, nor need it where
            # they vary over all; sums within the product are transposed by it.
            check_vma=inputs is not None,
        )
        return multiply(x_PM, siblings)

    def _misfit(
        self, x_PM: jax.Array, siblings: Sequence[BottleneckWeights], groups: int
    ) -> str | None:
        def pieces(axis: str | None) -> int:
            return self.mesh.shape[axis] if axis else 1

        counts = [(x_PM.shape[0], "rows", math.prod(map(pieces, self.rows)))]
        for weights in siblings:
            n_inputs, rank = weights.a_MR.shape
            counts += [
                (n_inputs, "inputs", pieces(self.inputs)),
                (rank, "ranks", pieces(self.inputs)),
                (weights.b_RN.shape[1], "outputs", pieces(self.outputs)),
            ]
            if weights.kept_C is not None:
                counts.append((groups, "channel groups", pieces(self.inputs)))
        for count, what, number in counts:
            if count % number:
                return f"{count} {what} are not cut evenly over {number} devices"
        return None

    def _cut(self, axis: str | None) -> str | None:
        return axis if axis and self.mesh.shape[axis] > 1 else None


def _sum_parts(
    x_PM: jax.Array,
    siblings: Sequence[BottleneckWeights],
    *,
    activation: Activation | None,
    channel_groups: int,
    dtype: DTypeLike,
    axis: str,
    pieces: int,
) -> tuple[jax.Array, ...]:
    # This device's inputs and its share of ranks and kept channels.
    first = jax.lax.axis_index(axis) * x_PM.shape[1]

    def at_home(weights: BottleneckWeights) -> BottleneckWeights:
        if weights.kept_C is None:
            return weights
        return weights._replace(kept_C=weights.kept_C - first)

    def share(part_PR: jax.Array) -> jax.Array:
        h_Pr = jax.lax.psum_scatter(part_PR, axis, scatter_dimension=1, tiled=True)
        return _kept_by_policies(h_Pr)

    sparse = siblings[0].kept_C is not None
    parts = bottleneck_products(
        x_PM,
        [at_home(weights) for weights in siblings],
        activation=activation,
        channel_groups=channel_groups // pieces if sparse else 1,
        dtype=dtype,
        complete=share,
    )
    return tuple(_kept_by_policies(jax.lax.psum(part_PN, axis)) for part_PN in parts)


def _kept_by_policies(whole: jax.Array) -> jax.Array:
    # A policy that keeps products would keep the parts, and sum them again.
    named: jax.Array = checkpoint_name(whole, "product")
    return named


def _specs(
    weights: BottleneckWeights, inputs: str | None, outputs: str | None
) -> BottleneckWeights:
    sparse = weights.kept_C is not None
    wide, kept = (Spec(inputs, outputs), Spec(inputs)) if sparse else (None, None)
    specs: list[Any] = [Spec(inputs, None), Spec(inputs, outputs), wide, kept, Spec()]
    return BottleneckWeights(*specs)
