"""Compilers that are installed without their hardware are not asked for devices.

`libtpu` and the CUDA plugin serve `python -m lostjax.plan` on any machine. JAX would
try both at its start, wait, and log what it did not find.
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
    """Choose the CPU where a compiler is installed and no accelerator is there.

    A platform that was chosen, by JAX_PLATFORMS or in JAX's configuration, stays. To be
    called before the first device is asked for.
    """
    if _is_chosen():
        return
    if any(map(_is_installed, _COMPILERS)) and not has_accelerator():
        jax.config.update("jax_platforms", "cpu")


def runs_on_cpu() -> bool:
    """Say whether the CPU is what devices will be, without asking for one."""
    if chosen := _chosen():
        return chosen.split(",")[0] == "cpu"
    return not has_accelerator()


def has_accelerator() -> bool:
    """Look for the files of accelerators, and for Google's devices on the PCI bus."""
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
