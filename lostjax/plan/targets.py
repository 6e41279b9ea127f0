"""Find hardware by name, as abstract devices for the vendors' compilers.

    v5e:16x16    a TPU slice by generation and shape: v4, v5e, v5p, v6e, tpu7x
    a100:8       a number of A100s (SXM, 80 GB) in one host
    h100:8       a number of H100s (SXM, 80 GB) in one host
    h200:8       a number of H200s (SXM, 141 GB) in one host
    b200:8       a number of B200s (SXM, 180 GB) in one host
    here         the devices of this machine

The hardware need not be present: `libtpu` compiles for TPUs on any Linux machine, and
the CUDA wheels compile for the GPUs. Nothing is run.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.train.devices.chips import Chip, find_chip
from lostjax.train.devices.platform import settle_platform

TPUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
"""TPU generations, and the number of dimensions of their slices."""

LONGEST = 64
"""Most chips along a dimension; no pod has more."""

EXAMPLES = (
    "v5e:4x4, v5p:4x4x8, v6e:16x16, tpu7x:2x2x1, v4:2x2x1, a100:8, h100:8, h200:8, "
    "b200:8, here"
)

_NEEDED = {
    "libtpu": "pip install libtpu",
    "jax_cuda12_plugin": "pip install 'jax[cuda12]'",
}


class _Gpu(NamedTuple):
    """What XLA would ask a GPU's driver for."""

    name: str
    """JAX's `device_kind`."""
    capability: str
    """CUDA's compute capability."""
    cores: int
    """Streaming multiprocessors."""
    fpus: int
    """Units for float32 in each of them."""
    clock: float
    """GHz."""
    bandwidth: int
    """Bytes/s of its memory."""
    memory: int
    """Bytes that the driver reports."""
    cache: int
    """Bytes of the second-level cache."""
    shared: int
    """Bytes of shared memory of a multiprocessor; a block has 1 kB less."""


# The SXM modules, as XLA's own descriptions state them (openxla/xla,
# xla/backends/gpu/target_config/specs; read in November 2026). H100 and H200 differ in
# their memory alone.
_GPUS = {
    "a100": _Gpu(
        "NVIDIA A100-SXM4-80GB",
        "major: 8",
        cores=108,
        fpus=64,
        clock=1.41,
        bandwidth=2_039_040_000_000,
        memory=85_100_068_864,
        cache=41_943_040,
        shared=167_936,
    ),
    "h100": _Gpu(
        "NVIDIA H100 80GB HBM3",
        "major: 9",
        cores=132,
        fpus=128,
        clock=1.98,
        bandwidth=3_352_320_000_000,
        memory=84_929_347_584,
        cache=52_428_800,
        shared=233_472,
    ),
    "h200": _Gpu(
        "NVIDIA H200",
        "major: 9",
        cores=132,
        fpus=128,
        clock=1.98,
        bandwidth=4_800_000_000_000,
        memory=151_397_597_184,
        cache=52_428_800,
        shared=233_472,
    ),
    "b200": _Gpu(
        "NVIDIA B200",
        "major: 10",
        cores=148,
        fpus=128,
        clock=1.965,
        bandwidth=7_672_320_000_000,
        memory=191_514_411_008,
        cache=132_644_864,
        shared=233_472,
    ),
}

# What is the same for all of them: limits of CUDA for these compute capabilities.
_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ {gpu.capability} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {gpu.bandwidth}
  device_memory_size: {gpu.memory}
  l2_cache_size: {gpu.cache}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {block}
  shared_memory_per_core: {gpu.shared}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{gpu.name}"
"""


class Target(NamedTuple):
    """Hardware that a program is compiled for."""

    name: str
    devices: tuple[Any, ...]
    """Abstract devices, or those of this machine."""
    chip: Chip | None
    """Published figures of a device; None if they are not known."""

    @property
    def kind(self) -> str:
        """JAX's `device_kind`."""
        device: Any = self.devices[0]
        return str(device.device_kind)


def find_target(name: str) -> Target:
    """Find hardware by its name.

    Args:
      name: GENERATION:SHAPE, GPU:NUMBER or here, such as `v5e:4x4` or `h100:8`.

    Returns:
      The hardware.

    Raises:
      ConfigError: if the name is unknown, with examples; or if its compiler is not
        installed, with the command that installs it.
    """
    # Installed compilers would otherwise be started as if their hardware were here.
    settle_platform()
    kind, _, shape = name.lower().partition(":")
    if name == "here":
        devices = tuple(jax.devices())
        return Target(name, devices, find_chip(devices[0].device_kind))
    if kind in _GPUS and re.fullmatch(r"[1-8]", shape):
        return _find_gpu(name, kind, int(shape))
    # Checked here, because libtpu crashes for a dimension of 0.
    dims = [read_whole(size, least=1, most=LONGEST) for size in shape.split("x")]
    sizes = [size for size in dims if size is not None]
    if kind in TPUS and len(dims) == len(sizes) == TPUS[kind]:
        return _find_tpu(name, kind, sizes)
    raise ConfigError(f"--topology={name}: not known; examples are {EXAMPLES}")


def _find_tpu(name: str, kind: str, sizes: Sequence[int]) -> Target:
    _need("libtpu", name)
    # Without these variables libtpu queries a cloud's metadata server, waits for its
    # timeout, and logs the failure.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            topology_name=f"{kind}:{'x'.join(map(str, sizes))}", platform="tpu"
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise ConfigError(
            f"--topology={name}: there is no slice of this shape ({reason}); examples "
            f"are {EXAMPLES}"
        ) from None
    devices: tuple[Any, ...] = tuple(found.devices)
    chip = find_chip(devices[0].device_kind)
    # v4 programs are compiled for cores, of which a chip has two.
    if chip is not None and kind == "v4":
        share = math.prod(sizes) / len(devices)
        chip = Chip(*(share * figure for figure in chip))
    return Target(name, devices, chip)


def _find_gpu(name: str, kind: str, n_devices: int) -> Target:
    _need("jax_cuda12_plugin", name)
    importlib.import_module("jax_cuda12_plugin")  # registers the platform
    from jax.experimental import topologies

    gpu = _GPUS[kind]
    found = topologies.get_topology_desc(
        topology_name=kind,
        platform="cuda",
        topology=f"1x1x{n_devices}",
        target_config=_DESCRIPTION.format(gpu=gpu, block=gpu.shared - 1024),
    )
    devices = tuple(found.devices)
    return Target(name, devices, find_chip(gpu.name))


def _need(module: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"--topology={name}: its compiler is not installed; {_NEEDED[module]}"
        )
