"""Published figures of chips: what bounds a step, and what utilisation is a share of.

Each is per device as JAX counts devices, from the vendors' data sheets and Google
Cloud's pages on TPU system architecture (v4, v5e, v5p, v6e, TPU7x; read in November
2026). A device that is not listed has no figures rather than guessed ones.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """A device's published peaks."""

    flops: float
    """Dense bfloat16 products, FLOP/s."""
    memory: float
    """HBM, bytes."""
    bandwidth: float
    """Of HBM, bytes/s."""
    network: float
    """What it can send along one axis of its torus (TPU: both ways of the ring
    together) or through NVLink, bytes/s."""


GIB = 2.0**30

CHIPS: dict[str, Chip] = {
    # Interconnect: 2400 Gbps over six ports, two to an axis.
    "TPU v4": Chip(275e12, 32 * GIB, 1200e9, 100e9),
    # 1600 Gbps over four ports.
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 100e9),
    "TPU v5e": Chip(197e12, 16 * GIB, 819e9, 100e9),
    # 4800 Gbps over six ports.
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 200e9),
    "TPU v5p": Chip(459e12, 95 * GIB, 2765e9, 200e9),
    # 800 GB/s over four ports, both ways together. Of HBM the page said 1640, 1600 and
    # now says 1638 GB/s (docs.cloud.google.com/tpu/docs/v6e).
    "TPU v6 lite": Chip(918e12, 32 * GIB, 1638e9, 200e9),
    "TPU v6e": Chip(918e12, 32 * GIB, 1638e9, 200e9),
    # A chip is two devices; 192 GiB, 2307 TFLOP/s and 7380 GB/s are a chip's.
    "TPU7x": Chip(1153.5e12, 96 * GIB, 3690e9, 100e9),
    "NVIDIA A100": Chip(312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
}
"""By the beginning of the name that JAX gives a device's kind."""


def find_chip(device_kind: str) -> Chip | None:
    """Look up a device's figures by the name that JAX gives its kind.

    Returns:
      Those of the longest listed name that the kind begins with; None where none fits.
    """
    fitting = [name for name in CHIPS if device_kind.startswith(name)]
    return CHIPS[max(fitting, key=len)] if fitting else None
