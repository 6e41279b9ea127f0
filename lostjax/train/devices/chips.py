"""Published peak figures of chips, for estimates of step times and of utilisation.

Figures are per device as JAX counts devices. They come from the vendors' data sheets
and from Google Cloud's pages on TPU system architecture (v4, v5e, v5p, v6e, TPU7x; read
in November 2026). No figures are guessed for devices that are not listed.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """A device's published peaks."""

    flops: float
    """Peak of dense bfloat16 products, FLOP/s."""
    memory: float
    """Size of HBM, bytes."""
    bandwidth: float
    """Bandwidth of HBM, bytes/s."""
    network: float
    """Bytes/s that a device can send: on a TPU along one axis of its torus, in both
    directions of the ring together; on a GPU through NVLink."""


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
    # 800 GB/s over four ports, both directions together. For HBM the page listed 1640,
    # then 1600, and now lists 1638 GB/s (docs.cloud.google.com/tpu/docs/v6e).
    "TPU v6 lite": Chip(918e12, 32 * GIB, 1638e9, 200e9),
    "TPU v6e": Chip(918e12, 32 * GIB, 1638e9, 200e9),
    # Half of the published 192 GiB, 2307 TFLOP/s and 7380 GB/s: a chip is two devices.
    "TPU7x": Chip(1153.5e12, 96 * GIB, 3690e9, 100e9),
    "NVIDIA A100": Chip(312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
    # Bandwidth as XLA's description of it states it; NVIDIA rounds it to 8 TB/s.
    "NVIDIA B200": Chip(2250e12, 180e9, 7672e9, 900e9),
}
"""Figures by prefix of JAX's `device_kind`."""


def find_chip(device_kind: str) -> Chip | None:
    """Return a device's published figures.

    Args:
      device_kind: JAX's `device_kind`, such as `TPU v5 lite`.

    Returns:
      The figures of the longest listed prefix of the kind; None if no prefix matches.
    """
    fitting = [name for name in CHIPS if device_kind.startswith(name)]
    return CHIPS[max(fitting, key=len)] if fitting else None
