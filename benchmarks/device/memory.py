"""Section 3: whether a batch of LOST with FRUGAL fits; one process for each try.

Fused attention and full recomputation, as for the plan's largest batch. The compiler
does not try out its candidates here: that takes half of the time and hardly changes the
memory. JAX may take nearly all of the device, as the plan supposes.
"""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from device.forms import largest
from device.plans import TOY_MEMORY
from device.programs import draw_state, lower_step, make_batch, one_device, peak_bytes
from device.workers import Event, first_line

ENVIRONMENT = {"XLA_CLIENT_MEM_FRACTION": ".97"}
PATIENCE = 100
"""Seconds for one try."""
OPTIONS = {"xla_gpu_autotune_level": 0}


def try_batch(size: str, rows: int, *, kind: str, toy: bool = False) -> Iterator[Event]:
    """Step twice with a number of rows, and say whether that fits."""
    yield Event(begin=size, limit=PATIENCE)
    mesh = one_device(jax.devices()[0])
    config = largest(size, rows, kind=kind, toy=toy)
    try:
        step = _compile(lower_step(config, mesh), kind)
        if toy and peak_bytes(step) > TOY_MEMORY:
            raise MemoryError(
                "RESOURCE_EXHAUSTED: more than a dry run pretends to have"
            )
        state = draw_state(config, mesh)
        batch = jax.device_put(make_batch(config), NamedSharding(mesh, P()))
        for _ in range(1 if toy else 2):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield Event(row=size, status="done", fits=False, note=first_line(error))
        return
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use") or peak_bytes(step)
    yield Event(row=size, status="done", fits=True, peak=peak)


def _compile(lowered: Any, kind: str) -> Any:
    if jax.devices()[0].platform != "gpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=OPTIONS)
    except Exception as error:
        # A compiler that no longer knows the option.
        if "xla_gpu_autotune_level" not in str(error):
            raise
        return lowered.compile()
