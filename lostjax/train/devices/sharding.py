"""Shard every array over a mesh by one table, and place batches.

`PARTITION_RULES` maps patterns of paths to partition specs. The optimiser's state
repeats the parameters' paths, so the same rules shard its moments. A dimension that
the axes of a spec do not divide stays whole, and so does an array of lower rank than
the spec; in FRUGAL's state, whose arrays are smaller than the parameters, the axes move
to another dimension. If several specs match, the one that cuts the array into
most pieces is used.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.optim.splitting.placement import fit_spec, mesh_axes
from lostjax.train.devices.mesh import BATCH_AXES
from lostjax.trees import path_text
from lostjax.typing import Batch, PyTree

BATCH_SPEC = P(BATCH_AXES)
"""Rows of a batch are sharded over data and fsdp."""


CUT_OUTPUTS = ("q", "k", "v", "gate", "up")
"""Matrices whose outputs are sharded over tensor."""


CUT_INPUTS = ("o", "down")
"""Matrices whose inputs are sharded over tensor."""


_COLUMN = f"({'|'.join(CUT_OUTPUTS)})"


_ROW = f"({'|'.join(CUT_INPUTS)})"


KEPT_PARTS = r"(^|/)opt_state/.*(^|/)(full|basis)/"
"""Arrays of FRUGAL's state, whose axes are shorter than the parameters'."""


EMBEDDING = "embed/embedding"
"""Path of the table of the tokens' embeddings."""


PARTITION_RULES: tuple[tuple[str, P], ...] = (
    # The first axis of stacked layers is L. It stays whole, because layers are scanned.
    (rf"layers/.*/{_COLUMN}/kernel$", P(None, "fsdp", "tensor")),
    (rf"layers/.*/{_ROW}/kernel$", P(None, "tensor", "fsdp")),
    # The rank is not sharded: x a would have to be gathered before it is concatenated
    # with the kept channels. It is narrow, so every tensor device computes all of it.
    (rf"layers/.*/{_COLUMN}/a$", P(None, "fsdp", None)),
    # b and values are concatenated and multiplied as one matrix: with equal shardings
    # the concatenation needs no communication.
    (rf"layers/.*/{_COLUMN}/(b|values)$", P(None, None, ("tensor", "fsdp"))),
    (rf"layers/.*/{_COLUMN}/(b|values)$", P(None, "fsdp", "tensor")),
    (rf"layers/.*/{_ROW}/(a|b|values)$", P(None, "tensor", "fsdp")),
    (rf"{EMBEDDING}$", P(None, ("tensor", "fsdp"))),
    (r"head/kernel$", P("fsdp", "tensor")),
    # Past outputs (example, slot, time, ...) are sharded by time, because every shard
    # must be able to look up any example.
    (r"memory/outputs/", P(None, None, ("data", "fsdp"))),
    (r".*", P()),
)
"""(pattern of a leaf's path, spec); of several matches the one with most pieces is
used, and the first of equals."""


def tree_shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the shardings of a tree of arrays or shapes, by `PARTITION_RULES`."""

    fine = functools.cache(lambda: _split_axes(mesh))

    def of(path: tuple[object, ...], leaf: Any) -> NamedSharding:
        name = path_text(path)
        spec = spec_for(name, leaf.shape, mesh.shape)
        if re.search(KEPT_PARTS, name) and _count_pieces(spec, mesh.shape) < mesh.size:
            # Of a mesh whose axes are products of small ones, some of these may divide
            # what the whole axis does not.
            split = spec_for(name, leaf.shape, fine().shape, split=True)
            if _count_pieces(split, fine().shape) > _count_pieces(spec, mesh.shape):
                return NamedSharding(fine(), split)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of, tree)


def place_shapes(tree: PyTree, mesh: Mesh) -> PyTree:
    """Add shardings to a tree of shapes, by `PARTITION_RULES`; no array is made."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        tree,
        tree_shardings(tree, mesh),
    )


def shard_bytes(tree: PyTree) -> int:
    """Sum the bytes of a tree of sharded shapes on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shard = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shard) * leaf.dtype.itemsize
    return total


@runtime_checkable
class Batches(Protocol):
    """Numbered batches, such as `data.BatchPlan`: a pure function of the number."""

    @property
    def batch_size(self) -> int: ...

    def batch_at(self, number: int, /, *, rows: slice = ...) -> Batch:
        """Return a batch, or a slice of its rows."""


def place_batch(plan: Batches, number: int, *, mesh: Mesh) -> Batch:
    """Put a batch on the mesh; each process reads the rows of its own devices only.

    Args:
      plan: the batches; their size is a multiple of data x fsdp.
      number: number of the batch, from 0.
      mesh: the devices.

    Returns:
      The batch as global arrays, sharded over data and fsdp.
    """
    size = plan.batch_size
    sharding = NamedSharding(mesh, BATCH_SPEC)
    shards = sharding.addressable_devices_indices_map((size,))
    parts: dict[tuple[int, int], Batch] = {}
    for (rows,) in filter(None, shards.values()):
        start, stop, _ = rows.indices(size)
        if (start, stop) not in parts:
            parts[start, stop] = plan.batch_at(number, rows=slice(start, stop))

    def place(field: int, leaf: Any) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> Any:
            assert index is not None
            start, stop, _ = index[0].indices(size)
            return parts[start, stop][field]

        # From a callback, so that no process needs the rows of another one's devices.
        shape = (size, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    some = next(iter(parts.values()))
    return Batch(
        *(
            None if leaf is None else place(field, leaf)
            for field, leaf in enumerate(some)
        )
    )


def spec_for(
    path: str, shape: tuple[int, ...], axes: Mapping[str, int], *, split: bool = False
) -> P:
    """Return the partition spec of an array.

    Args:
      path: the leaf's path, such as `params/layers/mlp/up/a`.
      shape: its shape.
      axes: mesh axis to size.
      split: whether these are the prime factors of the mesh's axes, from `_split_axes`.

    Returns:
      The spec of the matching rule that cuts the array into most pieces; dimensions
      that its axes do not divide stay whole.
    """
    matching = (spec for pattern, spec in PARTITION_RULES if re.search(pattern, path))
    if split:
        matching = (_split_names(spec, axes) for spec in matching)
    moves = re.search(KEPT_PARTS, path) is not None
    cuts = [_cut(spec, shape, axes, moves=moves) for spec in matching]
    return max(cuts, key=lambda cut: cut[1])[0]


def _cut(
    spec: P, shape: tuple[int, ...], axes: Mapping[str, int], *, moves: bool
) -> tuple[P, int]:
    """Drop or move the axes that do not divide; returns the spec and its pieces."""
    if len(spec) > len(shape):
        return P(), 1
    if moves:
        fitted = fit_spec(spec, shape, axes)
        return fitted, _count_pieces(fitted, axes)
    names, pieces = [], 1
    for size, name in zip(shape, spec, strict=False):
        parts = (name,) if isinstance(name, str) else (name or ())
        cut = math.prod(axes[part] for part in parts)
        fits = cut > 1 and size % cut == 0
        names.append(name if fits else None)
        pieces *= cut if fits else 1
    return P(*names), pieces


def _count_pieces(spec: P, axes: Mapping[str, int]) -> int:
    return math.prod(axes[name] for entry in spec for name in mesh_axes(entry))


def _split_axes(mesh: Mesh) -> Mesh:
    """Divide each axis of a mesh into axes of prime size: fsdp of 6 into fsdp.0, .1."""
    sizes = {
        f"{name}.{i}": factor
        for name, size in mesh.shape.items()
        for i, factor in enumerate(_prime_factors(size))
    }
    return Mesh(mesh.devices.reshape(*sizes.values()), tuple(sizes))


def _split_names(spec: P, axes: Mapping[str, int]) -> P:
    """Name all factors of each axis of a spec, in order."""

    def factors(entry: Any) -> tuple[str, ...]:
        return tuple(
            axis
            for name in mesh_axes(entry)
            for axis in axes
            if axis.rpartition(".")[0] == name
        )

    return P(*(factors(entry) or None for entry in spec))


def _prime_factors(size: int) -> list[int]:
    factors, divisor = [], 2
    while size > 1:
        while size % divisor == 0:
            factors.append(divisor)
            size //= divisor
        divisor += 1
    return factors
