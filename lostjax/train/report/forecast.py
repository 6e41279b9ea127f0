"""Forecast the time and the memory of a step on a CPU, before it is compiled.

    seconds = FLOPs of the model's products / (FLOP/s of one large product, measured)
    bytes   = state + gradients + what autodiff keeps of a micro-batch + its logits,
              at least: the interpreter, compilation and the initialisation come on top

The presets of the papers are for accelerators. On a CPU their first step takes minutes,
so that a run would look as if it hung.
"""

import math
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.nn import activation_bytes
from lostjax.steps.head import count_parts
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import xla_attention
from lostjax.train.build.run import Run
from lostjax.train.devices.mesh import count_batch_shards
from lostjax.trees import count_bytes
from lostjax.view.numbers import format_bytes, format_seconds

LONG = 5.0
"""Seconds of a step from which a run says what it will take."""

SLOWEST = 1e10
"""FLOP/s that every CPU reaches: shorter steps are not measured."""

SHORT = 1.0
"""Seconds of a step that the suggested batch size aims at."""

_SIZE = 1024


class Forecast(NamedTuple):
    """What a step takes."""

    seconds: float
    bytes: float


def describe_forecast(run: Run) -> str:
    """Describe what a run takes on a CPU; '' if its steps are short, or elsewhere.

    Args:
      run: the run; nothing is compiled but one matrix product.
    """
    flops = _count_flops(run)
    if run.mesh.devices.flat[0].platform != "cpu" or flops < LONG * SLOWEST:
        return ""
    found = Forecast(flops / measure_speed(run.model.dtype), count_step_bytes(run))
    return "" if found.seconds < LONG else _describe(run, found)


def _describe(run: Run, found: Forecast) -> str:
    config = run.config
    whole = format_seconds(found.seconds * config.steps)
    text = (
        f"on this CPU a step takes about {format_seconds(found.seconds)} and "
        f"at least {format_bytes(found.bytes)}, all {config.steps:,} steps {whole}"
    )
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if found.bytes > there:
        text += f"; this machine has {format_bytes(there)}"
    unit = count_batch_shards(run.mesh) * config.accumulate
    rows = config.batch_size * SHORT / found.seconds
    smaller = max(unit, unit * 2 ** math.floor(math.log2(max(rows / unit, 1))))
    if smaller < config.batch_size:
        seconds = found.seconds * smaller / config.batch_size
        text += f"; try --batch-size={smaller} ({format_seconds(seconds)})"
    return f"{text}, or a smaller preset"


def _count_flops(run: Run) -> float:
    config = run.config
    return run.flops_per_token * config.batch_size * config.data.seq_len


def count_step_bytes(run: Run) -> float:
    """Count the bytes of a step on all devices of a CPU, which share its memory."""
    config, model = run.config, run.model
    rows = config.batch_size // count_micro_batches(config, mesh=run.mesh)
    length = config.data.seq_len
    # The form of attention decides what autodiff keeps.
    placed = model.clone(attend=xla_attention(run.mesh))
    kept = activation_bytes(placed, batch_size=rows, length=length)
    shards = count_batch_shards(run.mesh)
    parts = count_parts((rows, length, model.d_model), shards=shards)
    # Logits and their gradient in float32.
    logits = 2 * 4 * model.vocab_size * rows * length / parts
    state, gradients = count_bytes(run.abstract), count_bytes(run.abstract.params)
    reference = 0 if run.reference is None else count_bytes(run.reference.abstract)
    return float(state + gradients + kept + logits + reference)


def measure_speed(dtype: DTypeLike) -> float:
    """Measure the FLOP/s of a large matrix product: the best of three."""
    product = jax.jit(jnp.matmul)
    square = jnp.ones((_SIZE, _SIZE), dtype)
    product(square, square).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        product(square, square).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * _SIZE**3 / min(seconds)
