"""Choose the platform, so that compilers without their hardware are not initialised.

`python -m lostjax.plan` uses `libtpu` and the CUDA plugin on any machine. JAX would try
to initialise both at its start, wait, and log that it found no devices.
"""

import glob
import importlib.util
import os
from pathlib import Path

import jax

_GOOGLE = "0x1ae0"
_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/dxg", "/dev/kfd")
_COMPILERS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")


def settle_platform() -> None:
    """Choose the CPU if a compiler is installed but the machine has no accelerator.

    A platform that is set in JAX_PLATFORMS or in JAX's configuration is kept. Call it
    before the first use of a device.
    """
    if _is_chosen():
        return
    if any(map(_is_installed, _COMPILERS)) and not has_accelerator():
        jax.config.update("jax_platforms", "cpu")


def runs_on_cpu() -> bool:
    """Return whether devices will be CPU devices; JAX's backend is not started."""
    if chosen := _chosen():
        return chosen.split(",")[0] == "cpu"
    return not has_accelerator()


def has_accelerator() -> bool:
    """Return whether there is an accelerator, by device files and the PCI bus."""
    if any(glob.glob(pattern) for pattern in _DEVICE_FILES):
        return True
    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    return any(Path(vendor).read_text().strip() == _GOOGLE for vendor in vendors)


def _is_chosen() -> bool:
    return bool(_chosen())


def _chosen() -> str:
    chosen = getattr(jax.config, "jax_platforms", None)
    return chosen or os.environ.get("JAX_PLATFORMS") or ""


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
