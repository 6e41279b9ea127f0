"""Split the CPU into the devices that a mesh needs, before JAX's backend starts."""

import contextlib
import math
import os

import jax

from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.mesh import parse_mesh
from lostjax.train.devices.platform import runs_on_cpu, settle_platform

MOST_CPU_DEVICES = 1024
"""Most CPU devices: more take minutes to create, and have no cores to run on."""


def provide_devices(config: TrainConfig) -> None:
    """Split the CPU into as many devices as the mesh needs.

    Other platforms ignore the setting.

    Raises:
      ConfigError: if the mesh needs more than `MOST_CPU_DEVICES` CPU devices here.
    """
    settle_platform()
    sizes = [size for size in parse_mesh(config.mesh).values() if size > 0]
    local = math.prod(sizes) // (config.hosts.processes or 1)
    if local > MOST_CPU_DEVICES and runs_on_cpu():
        raise ConfigError(
            f"--mesh={config.mesh}: needs {local} devices here, but a CPU is split "
            f"into at most {MOST_CPU_DEVICES}"
        )
    local = min(local, MOST_CPU_DEVICES)
    # XLA aborts the process if a collective waits longer than 40 s, which devices of a
    # busy CPU do.
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
    flags = os.environ.get("XLA_FLAGS", "")
    if patience.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {patience}".strip()
    if config.objective.trajectory.remembers_rows and local > 1:
        # Rows that move between devices use collectives outside the main chain, which
        # run on XLA's thread pool: with fewer threads than devices they deadlock. XLA
        # takes the size of the pool from NPROC.
        threads = max(2 * local, os.cpu_count() or 1)
        os.environ.setdefault("NPROC", str(threads))
    # After the first use of a device JAX refuses to change their number: the mesh then
    # uses the devices that exist.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(1, local))
