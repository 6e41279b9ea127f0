"""Arrays that every device computes whole, so that their bits depend on no mesh.

Starting weights are derived from reductions (Gram matrices, eigenvectors, variances).
The partitioner is free to split a reduction over devices when the weights made from it
are sharded, and a sum in another order has other bits: eigenvectors amplify them, and a
channel near the cut changes place. `replicated` stops it: what stands before it is
computed alike on every device, what stands after it may be cut up again.
"""

from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@custom_vmap
def replicated(x: jax.Array) -> jax.Array:
    """Return the same array, whole on every device of whatever mesh is in use.

    Args:
        x: an array of any shape.

    Returns:
        Equal to `x`. Neither its sharding nor that of its users spreads across.
    """
    whole: jax.Array = _identity(x)
    return whole


@replicated.def_vmap
def _replicated_batch(
    axis_size: int, in_batched: list[bool], x: jax.Array
) -> tuple[jax.Array, bool]:
    del axis_size
    return replicated(x), in_batched[0]


@custom_partitioning
def _identity(x: jax.Array) -> jax.Array:
    return x


def _partition(mesh: Mesh, arg_shapes: Any, result_shape: Any) -> Any:
    whole = _whole(mesh, arg_shapes, result_shape)
    return mesh, lambda x: x, whole, (whole,)


def _whole(mesh: Mesh, arg_shapes: Any, shape: Any) -> NamedSharding:
    del arg_shapes, shape
    return NamedSharding(mesh, PartitionSpec())


def _unrelated_axes(mesh: Mesh, value_types: Any, result_types: Any) -> str:
    # Axes of one name on both sides would carry a sharding through: none has.
    del mesh, result_types
    axes = range(len(value_types[0].shape))
    sides = (" ".join(f"{side}{axis}" for axis in axes) for side in ("in", "out"))
    return " -> ".join(sides)


_identity.def_partition(
    _partition,
    infer_sharding_from_operands=_whole,
    sharding_rule=_unrelated_axes,
)
