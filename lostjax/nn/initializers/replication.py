"""Replicated computation, which makes initial weights independent of the mesh.

Initial weights are derived from reductions (Gram matrices, eigenvectors, variances). If
the weights computed from a reduction are sharded, the partitioner may split the
reduction over devices. A sum in another order is rounded differently, eigenvectors
amplify the difference, and a channel near the cut-off is replaced by another.
`replicated` prevents this: every device computes all operations before it identically,
and only operations after it may be partitioned.
"""

from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@custom_vmap
def replicated(x: jax.Array) -> jax.Array:
    """Return the array unchanged, replicated on all devices of the current mesh.

    Args:
        x: an array of any shape.

    Returns:
        An array equal to `x`. Sharding is not propagated across it in either direction.
    """
    whole: jax.Array = _identity(x)
    return whole


@replicated.def_vmap
def _replicated_batch(
    axis_size: int, in_batched: list[bool], x: jax.Array
) -> tuple[jax.Array, bool]:
    # custom_partitioning has no batching rule: apply it to the whole batch.
    del axis_size
    return replicated(x), in_batched[0]


@custom_partitioning
def _identity(x: jax.Array) -> jax.Array:
    return x


def _partition(mesh: Mesh, arg_shapes: Any, result_shape: Any) -> Any:
    whole = _whole(mesh, arg_shapes, result_shape)
    # The body is the identity: only the declared shardings have an effect.
    return mesh, lambda x: x, whole, (whole,)


def _whole(mesh: Mesh, arg_shapes: Any, shape: Any) -> NamedSharding:
    del arg_shapes, shape
    return NamedSharding(mesh, PartitionSpec())


def _unrelated_axes(mesh: Mesh, value_types: Any, result_types: Any) -> str:
    # Sharding propagates along axis names common to both sides: have none in common.
    del mesh, result_types
    axes = range(len(value_types[0].shape))
    sides = (" ".join(f"{side}{axis}" for axis in axes) for side in ("in", "out"))
    return " -> ".join(sides)


_identity.def_partition(
    _partition,
    infer_sharding_from_operands=_whole,
    sharding_rule=_unrelated_axes,
)
