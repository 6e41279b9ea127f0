"""Parts of `benchmarks/gpu.py` and `benchmarks/tpu.py`, the check of a device."""
