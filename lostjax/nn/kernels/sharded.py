"""Products of narrow matrices on a mesh, computed locally by every device.

XLA can partition its own products over devices, but not a kernel. `ShardedProducts`
runs any implementation of the product under `jax.shard_map`. Rows are sharded like the
batch; in addition either outputs or inputs can be sharded:

    outputs   x (P, M) and A replicated, [B; W] sharded by columns: each device computes
              its columns of y; the forward pass needs no communication
    inputs    x and A sharded by inputs, B and W by rank and channels: x A is summed
              over devices, each keeps its share of the ranks, and the partial y are
              summed; with channel groups, each device gathers from its own x

Weights are resharded to these specs: weights stored sharded over an axis of the rows
(FSDP) are gathered in the computation dtype. The transpose of shard_map sums their
gradients over the axes on which they are replicated, and the gradient of x over the
axis of the outputs. No row of x is communicated, and no more of its gradient than for a
dense matrix.

If the inputs are sharded, x A is summed over devices before the activation, in the
middle of what a kernel computes. Such products use XLA, and so do sizes that the mesh
does not divide; the reason is logged once.
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
    """An implementation of `bottleneck_products` on a mesh.

    Attributes:
        product: implementation of the product on a single device.
        mesh: the device mesh.
        rows: mesh axes over which the rows are sharded.
        inputs: mesh axis over which the inputs of x are sharded, or None.
        outputs: mesh axis over which the outputs are sharded, or None. Devices along
            any other axis repeat the same computation.

    Raises:
        ValueError: if an axis is not in the mesh.

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
        """Check that all axes are in the mesh."""
        for axis in (*self.rows, self.inputs, self.outputs):
            if axis is not None and axis not in self.mesh.shape:
                raise ValueError(
                    f"axis {axis!r} is not a mesh axis; the mesh has "
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
        """Multiply the same rows by sibling matrices, like `bottleneck_products`.

        Args:
            x_PM: all rows (P, M).
            siblings: unsharded weights; either all or none have kept channels.
            activation: activation between the factors; None for the identity.
            channel_groups: number of groups of inputs with equal numbers of kept
                channels; if inputs are sharded, a multiple of the number of shards.
            dtype: computation dtype; None promotes the dtypes of rows and weights.

        Returns:
            One array (P, N_i) per sibling.
        """
        dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
        multiply: BottleneckProducts = self._on_mesh
        if reason := self._misfit(x_PM, siblings, channel_groups):
            log_once(f"low-rank product is partitioned by XLA: {reason}")
            multiply = bottleneck_products
        # Cast before communication: devices exchange the narrower dtype.
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
        # Name axes of size 1 as well: shard_map then sums nothing over them.
        alone = (axis for axis, size in self.mesh.shape.items() if size == 1)
        rows = tuple(dict.fromkeys((*self.rows, *alone)))
        product = self.product
        if inputs is not None:
            if product is not bottleneck_products:
                log_once(
                    "low-rank product uses XLA, not a kernel: its inputs are sharded "
                    f"over {inputs}, so x A is summed before its activation"
                )
            # The psum inside needs the name of the axis, which exists under shard_map.
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
            # Pallas outputs do not declare the axes they vary over, and need not if
            # they vary over all. Sharded inputs need it for the transpose of psum.
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
                return f"{count} {what} do not split evenly over {number} devices"
        return None

    def _cut(self, axis: str | None) -> str | None:
        # An axis of size 1 shards nothing; skip its collectives.
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
    # kept_C counts from the first input of the whole x: make it relative to this shard.
    first = jax.lax.axis_index(axis) * x_PM.shape[1]

    def at_home(weights: BottleneckWeights) -> BottleneckWeights:
        if weights.kept_C is None:
            return weights
        return weights._replace(kept_C=weights.kept_C - first)

    def share(part_PR: jax.Array) -> jax.Array:
        # Reduce-scatter: each device continues with its share of the ranks only.
        h_Pr = jax.lax.psum_scatter(part_PR, axis, scatter_dimension=1, tiled=True)
        return _kept_by_policies(h_Pr)

    sparse = siblings[0].kept_C is not None
    parts = bottleneck_products(
        x_PM,
        [at_home(weights) for weights in siblings],
        activation=activation,
        # Groups of this shard: each holds equally many channels.
        channel_groups=channel_groups // pieces if sparse else 1,
        dtype=dtype,
        complete=share,
    )
    return tuple(_kept_by_policies(jax.lax.psum(part_PN, axis)) for part_PN in parts)


def _kept_by_policies(whole: jax.Array) -> jax.Array:
    # Without the name, a policy that saves products would save the partial sums and
    # repeat the all-reduce in the backward pass.
    named: jax.Array = checkpoint_name(whole, "product")
    return named


def _specs(
    weights: BottleneckWeights, inputs: str | None, outputs: str | None
) -> BottleneckWeights:
    sparse = weights.kept_C is not None
    # Rank and kept channels share the input axis, so each device joins its own.
    wide, kept = (Spec(inputs, outputs), Spec(inputs)) if sparse else (None, None)
    specs: list[Any] = [Spec(inputs, None), Spec(inputs, outputs), wide, kept, Spec()]
    return BottleneckWeights(*specs)
