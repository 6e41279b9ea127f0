"""Published peak rates of chips, for model FLOPs utilisation (MFU).

Dense bfloat16 products, FLOP/s per device as JAX counts devices, from the vendors'
data sheets. A device that is not listed has no MFU rather than a guessed one.
"""

PEAKS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def flops_peak(device_kind: str) -> float | None:
    """Look up a device's peak FLOP/s by the name JAX gives its kind.

    Returns:
      FLOP/s, of the longest listed name the kind begins with; None where none fits.
    """
    fitting = [name for name in PEAKS if device_kind.startswith(name)]
    return PEAKS[max(fitting, key=len)] if fitting else None
