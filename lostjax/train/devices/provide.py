"""Make the CPU devices that a mesh names, before JAX starts."""

import contextlib
import math
import os

import jax

from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.mesh import parse_mesh
from lostjax.train.devices.platform import runs_on_cpu, settle_platform

MOST_CPU_DEVICES = 1024
"""More of them take minutes to make, and have nothing to run on."""


def provide_devices(config: TrainConfig) -> None:
    """Make as many CPU devices as the mesh names; other platforms ignore it.

    Raises:
      ConfigError: where these are more than a machine could ever serve.
    """
    settle_platform()
    sizes = [size for size in parse_mesh(config.mesh).values() if size > 0]
    local = math.prod(sizes) // (config.hosts.processes or 1)
    if local > MOST_CPU_DEVICES and runs_on_cpu():
        raise ConfigError(
            f"--mesh={config.mesh}: needs {local} devices here, and of a CPU at most "
            f"{MOST_CPU_DEVICES} are made"
        )
    local = min(local, MOST_CPU_DEVICES)
    # Devices of a busy CPU wait for each other longer than XLA's 40 s, after which it
    # would abort the process.
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
    flags = os.environ.get("XLA_FLAGS", "")
    if patience.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {patience}".strip()
    if config.objective.trajectory.remembers_rows and local > 1:
        # Rows that change devices do so beside the main chain of collectives, on
        # XLA's pool of threads: with fewer of them than devices, all wait for ever.
        threads = max(2 * local, os.cpu_count() or 1)
        os.environ.setdefault("NPROC", str(threads))
    # Once a device was used their number stands; the mesh then takes what is there.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(1, local))
