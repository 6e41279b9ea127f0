"""Devices as a mesh, and one table that says how every array lies on it.

A mesh has three axes, named as users of JAX trainers name them: `data` (copies of the
parameters, each with its rows of the batch), `fsdp` (rows of the batch too, and the
parameters cut), `tensor` (matrices cut within a layer, the batch whole). Axis types
are Auto: the compiler places the collectives, from the table's shardings.

`PARTITION_RULES` maps path patterns to partition specs. Optimiser state repeats the
parameters' paths, so the same table shards moments. A spec whose rank does not fit or
whose axes do not divide a dimension leaves that dimension whole; where another spec
matches too and cuts the array into more pieces, it is taken.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.trees import path_text
from lostjax.typing import PyTree

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
BATCH_SPEC = P(BATCH_AXES)
"""Rows of a batch are cut over data and fsdp."""

CUT_OUTPUTS = ("q", "k", "v", "gate", "up")
"""Matrices whose outputs are cut over tensor."""
CUT_INPUTS = ("o", "down")
"""Matrices whose inputs are."""

_COLUMN = f"({'|'.join(CUT_OUTPUTS)})"
_ROW = f"({'|'.join(CUT_INPUTS)})"

PARTITION_RULES: tuple[tuple[str, P], ...] = (
    # Stacked layers lead with an L axis, which stays whole.
    (rf"layers/.*/{_COLUMN}/kernel$", P(None, "fsdp", "tensor")),
    (rf"layers/.*/{_ROW}/kernel$", P(None, "tensor", "fsdp")),
    # Cut over its rank, x a would have to be put together again before it joins the
    # kept channels: every tensor device makes all of it, which is narrow.
    (rf"layers/.*/{_COLUMN}/a$", P(None, "fsdp", None)),
    # b and values are multiplied as one matrix: cut alike, they join at home.
    (rf"layers/.*/{_COLUMN}/(b|values)$", P(None, None, ("tensor", "fsdp"))),
    (rf"layers/.*/{_COLUMN}/(b|values)$", P(None, "fsdp", "tensor")),
    (rf"layers/.*/{_ROW}/(a|b|values)$", P(None, "tensor", "fsdp")),
    (r"embed/embedding$", P(None, ("tensor", "fsdp"))),
    (r"head/kernel$", P("fsdp", "tensor")),
    # Past outputs (example, slot, time, ...) by time: any row is found on every shard.
    (r"memory/outputs/", P(None, None, ("data", "fsdp"))),
    (r".*", P()),
)
"""(pattern of a leaf's path, spec): the spec that cuts it most, the first of equals."""


def parse_mesh(text: str) -> dict[str, int]:
    """Read a mesh such as `data:4,fsdp:2`.

    Args:
      text: comma-separated AXIS:SIZE; a size is positive, or -1 once for the rest.

    Returns:
      Axis to size, in the order of the text.

    Raises:
      ConfigError: naming the part that is wrong and what is allowed.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        if axis not in AXES:
            raise ConfigError(
                f"--mesh={text}: no axis is called {axis!r}; there are "
                f"{', '.join(AXES)}, written as data:4,fsdp:2"
            )
        if axis in sizes:
            raise ConfigError(f"--mesh={text}: axis {axis} is given twice")
        number = -1 if size == "-1" else read_whole(size, least=1)
        if number is None:
            raise ConfigError(
                f"--mesh={text}: the size of {axis} is {size!r}; it must be a positive "
                "number below 2^31, or -1 for the rest of the devices"
            )
        sizes[axis] = number
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"--mesh={text}: only one axis can be -1, the rest")
    return sizes


def resolve_mesh(text: str, *, n_devices: int, found: str) -> dict[str, int]:
    """Give every axis its size on so many devices.

    Args:
      text: see `parse_mesh`.
      n_devices: devices there are, over all processes.
      found: what they are, for the error text, such as `4 TPU v5e`.

    Returns:
      Sizes of data, fsdp and tensor, in this order, with product at most n_devices.

    Raises:
      ConfigError: where the mesh does not fit the devices.
    """
    sizes = parse_mesh(text)
    fixed = math.prod(size for size in sizes.values() if size > 0)
    rest = n_devices // fixed
    full = {axis: sizes.get(axis, 1) for axis in AXES}
    full = {axis: rest if size == -1 else size for axis, size in full.items()}
    if -1 in sizes.values() and (rest == 0 or rest * fixed != n_devices):
        raise ConfigError(
            f"--mesh={text}: {fixed} does not divide the {n_devices} devices ({found})"
        )
    if math.prod(full.values()) > n_devices:
        raise ConfigError(
            f"--mesh={text}: needs {math.prod(full.values())} devices, but there are "
            f"{n_devices} ({found})"
        )
    return full


def make_mesh(text: str) -> Mesh:
    """Make the mesh of the devices there are, or of the first ones.

    Raises:
      ConfigError: where it does not fit them, or leaves out a process's devices.
    """
    devices = jax.devices()
    found = f"{len(devices)} x {devices[0].device_kind}"
    sizes = resolve_mesh(text, n_devices=len(devices), found=found)
    used = devices[: math.prod(sizes.values())]
    if {device.process_index for device in used} != set(range(jax.process_count())):
        raise ConfigError(
            f"--mesh={text}: takes {len(used)} of {found}, and none of some process's; "
            f"several processes need all {len(devices)}"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=used,
    )


def count_batch_shards(mesh: Mesh) -> int:
    """Count the shards that a batch is cut into: data x fsdp."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def is_on_cpu(mesh: Mesh) -> bool:
    """Say whether the devices of a mesh are a CPU's."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def spec_for(path: str, shape: tuple[int, ...], axes: Mapping[str, int]) -> P:
    """Find how an array lies on the mesh.

    Args:
      path: the leaf's path, such as `params/layers/mlp/up/a`.
      shape: its shape.
      axes: mesh axis to size.

    Returns:
      The matching rule's spec; dimensions its axes do not divide stay whole.
    """
    matching = (spec for pattern, spec in PARTITION_RULES if re.search(pattern, path))
    cuts = [_cut(spec, shape, axes) for spec in matching]
    return max(cuts, key=lambda cut: cut[1])[0]


def _cut(spec: P, shape: tuple[int, ...], axes: Mapping[str, int]) -> tuple[P, int]:
    """Leave out the axes that do not divide; gives the spec and its pieces."""
    if len(spec) > len(shape):
        return P(), 1
    names, pieces = [], 1
    for size, name in zip(shape, spec, strict=False):
        parts = (name,) if isinstance(name, str) else (name or ())
        cut = math.prod(axes[part] for part in parts)
        fits = cut > 1 and size % cut == 0
        names.append(name if fits else None)
        pieces *= cut if fits else 1
    return P(*names), pieces


def tree_shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Give each leaf of a tree (arrays or shapes) its sharding by the table."""

    def of(path: tuple[object, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec_for(path_text(path), leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(of, tree)


def place_shapes(tree: PyTree, mesh: Mesh) -> PyTree:
    """Give each shape of a tree its sharding by the table; nothing is made."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        tree,
        tree_shardings(tree, mesh),
    )


@runtime_checkable
class Batches(Protocol):
    """Numbered batches, such as `data.BatchPlan`: pure in the number."""

    @property
    def batch_size(self) -> int: ...

    def batch_at(self, number: int, /, *, rows: slice = ...) -> Batch:
        """Return a batch, or some rows of it."""


def place_batch(plan: Batches, number: int, *, mesh: Mesh) -> Batch:
    """Put a batch on the mesh; each process reads only its devices' rows.

    Args:
      plan: the batches; their size is a multiple of data x fsdp.
      number: of the batch, from 0.
      mesh: the devices.

    Returns:
      The batch as global arrays, cut over data and fsdp.
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

        shape = (size, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    some = next(iter(parts.values()))
    return Batch(*(place(field, leaf) for field, leaf in enumerate(some)))
