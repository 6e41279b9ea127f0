"""Arrange devices in a mesh.

A mesh has three axes, with the usual names:

    data      replicates the parameters and shards the rows of the batch
    fsdp      shards the parameters and the rows of the batch
    tensor    shards the matrices within a layer and replicates the batch

Axis types are Auto: the compiler inserts the collectives that the shardings of
`train.devices.sharding` need.
"""

import math

import jax
from jax.sharding import AxisType, Mesh

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def parse_mesh(text: str) -> dict[str, int]:
    """Parse a mesh such as `data:4,fsdp:2`.

    Args:
      text: comma-separated AXIS:SIZE; a size is positive, or -1, at most once, for the
        remaining devices.

    Returns:
      Axis to size, in the order of the text.

    Raises:
      ConfigError: if an axis or a size is wrong; the message names it and what is
        allowed.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        if axis not in AXES:
            raise ConfigError(
                f"--mesh={text}: no axis is called {axis!r}; the axes are "
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
    """Compute the size of every axis on a number of devices.

    Args:
      text: see `parse_mesh`.
      n_devices: number of devices of all processes together.
      found: description of the devices for the error message, such as `4 TPU v5e`.

    Returns:
      Sizes of data, fsdp and tensor, in this order, with product at most n_devices.

    Raises:
      ConfigError: if the mesh does not fit the devices.
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
    """Make the mesh of all devices, or of the first ones if it needs fewer.

    Raises:
      ConfigError: if the mesh does not fit the devices, or uses no device of some
        process.
    """
    devices = jax.devices()
    found = f"{len(devices)} x {devices[0].device_kind}"
    if devices[0].platform == "cpu":  # see `provide_devices`
        found += ", fixed when JAX started in this process: restart it for more"
    sizes = resolve_mesh(text, n_devices=len(devices), found=found)
    used = devices[: math.prod(sizes.values())]
    if {device.process_index for device in used} != set(range(jax.process_count())):
        raise ConfigError(
            f"--mesh={text}: uses {len(used)} of {found}, and no device of some "
            f"process; with several processes it must use all {len(devices)}"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=used,
    )


def count_batch_shards(mesh: Mesh) -> int:
    """Return the number of shards of a batch: data x fsdp."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def is_on_cpu(mesh: Mesh) -> bool:
    """Return whether the devices of a mesh are CPU devices."""
    return bool(mesh.devices.flat[0].platform == "cpu")
