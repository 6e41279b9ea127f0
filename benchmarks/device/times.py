"""Section 2: time and memory of a training step and of a layer, for forms of one size.

First all programs of the size are compiled, in threads. Nothing is timed meanwhile,
because a GPU's compiler tries its candidates on the GPU. Then each form steps alone,
those with the least memory first: the device's peak, which only grows, is then the
form's own. Then each form takes turns with LOST, to which its ratio is.
"""

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from device.forms import BASE, FORMS, configure
from device.programs import (
    count_kernels,
    draw_state,
    flops_per_token,
    lower_layer,
    lower_step,
    make_batch,
    one_device,
    peak_bytes,
    take_layer,
)
from device.workers import Event, first_line
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.chips import find_chip

PATIENCE = {"compiling": 240, "measuring": 45}
"""Seconds without a word."""
BLOCK, TURNS, TOY_TURNS = 0.1, 12, 2
"""Seconds of calls between two readings of the clock, and readings of each form."""


class Compiled(NamedTuple):
    """A form's programs."""

    config: TrainConfig
    step: Any
    layer: Any


def measure(
    names: list[str], *, size: str, kind: str, toy: bool = False
) -> Iterator[Event]:
    """Compile and measure forms of a size; LOST is always among them."""
    mesh = one_device(jax.devices()[0])
    runnable = []
    for name in names:
        form = FORMS[name]
        if (form.fused or form.kernels) and mesh.devices.flat[0].platform != kind:
            yield Event(row=name, status="skipped", note=f"needs a {kind.upper()}")
        else:
            runnable.append(name)
    if not runnable:
        return
    forms: dict[str, Compiled] = {}
    needed = list(dict.fromkeys([BASE, *runnable]))
    yield Event(begin="", limit=PATIENCE["compiling"])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        jobs = {
            pool.submit(_compile, name, size, kind, toy, mesh): name for name in needed
        }
        for job in as_completed(jobs):
            try:
                forms[jobs[job]] = job.result()
            except Exception as error:
                yield Event(row=jobs[job], status="error", note=first_line(error))
    # In a process that goes on after another, LOST may have its row already.
    by_memory = sorted(
        (name for name in runnable if name in forms),
        key=lambda name: peak_bytes(forms[name].step),
    )
    for name in by_memory:
        yield Event(begin=name, limit=PATIENCE["measuring"])
        try:
            yield Event(row=name, **_measure_memory(forms[name], mesh))
        except Exception as error:
            forms.pop(name)
            yield Event(row=name, status="error", note=first_line(error))
    if BASE not in forms:
        return
    base = Running(forms[BASE], mesh)
    for name in [name for name in runnable if name in forms]:
        yield Event(begin=name, limit=PATIENCE["measuring"])
        try:
            yield Event(row=name, **_measure_time(name, forms, base, mesh, toy))
        except Exception as error:
            yield Event(row=name, status="error", note=first_line(error))


def _compile(name: str, size: str, kind: str, toy: bool, mesh: Any) -> Compiled:
    config = configure(size, FORMS[name], kind=kind, toy=toy)
    form = FORMS[name]
    step = lower_step(config, mesh).compile()
    kernels = count_kernels(step.as_text())
    wanted = form.fused + form.kernels
    if len(kernels) < wanted:
        raise RuntimeError(f"XLA's form ran, not a kernel: the program has {kernels}")
    has_layer = name == BASE or form.changes_layer
    if toy:  # whose time is that of compiling
        has_layer = name in (BASE, "dense")
    layer = lower_layer(config, mesh).compile() if has_layer else None
    return Compiled(config, step, layer)


class Running:
    """A form whose state is on the device."""

    def __init__(self, form: Compiled, mesh: Any) -> None:
        config, self._form = form.config, form
        self.state = draw_state(config, mesh)
        whole = NamedSharding(mesh, P())
        self._batch = jax.device_put(make_batch(config), whole)
        tokens_BT = self._batch.tokens_BT
        x_BTD = jax.random.normal(
            jax.random.key(1),
            (*tokens_BT.shape, config.model.d_model),
            jnp.dtype(config.model.dtype),
        )
        self._x_BTD = jax.device_put(x_BTD, whole)
        variables = {"params": self.state.params, "channels": self.state.channels}
        self._variables = take_layer(variables)

    def step(self) -> Any:
        """Do one more step."""
        self.state, metrics = self._form.step(self.state, self._batch)
        return metrics

    def layer(self) -> Any:
        """Do one layer, forward and backward."""
        return self._form.layer(self._variables, self._x_BTD, self._x_BTD, self._batch)


def _measure_memory(form: Compiled, mesh: Any) -> dict[str, Any]:
    """Step twice, and read what the device's memory was at most."""
    before = _peak()
    state = draw_state(form.config, mesh)
    batch = jax.device_put(make_batch(form.config), NamedSharding(mesh, P()))
    for _ in range(2):
        state, metrics = form.step(state, batch)
    metrics = jax.device_get(metrics)
    if metrics["skipped_total"]:
        raise RuntimeError(f"the loss was not finite: {metrics['loss']}")
    after = _peak()
    del state, batch
    gc.collect()
    by_compiler = peak_bytes(form.step)
    return {
        "peak": after or by_compiler,
        # A CPU does not count; and a peak that did not grow may be another form's.
        "peak_is": "measured" if after > before else "at most" if after else "compiler",
        "compiler_peak": by_compiler,
        "loss": float(metrics["loss"]),
    }


def _peak() -> int:
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0))


def _measure_time(
    name: str, forms: dict[str, Compiled], base: Running, mesh: Any, toy: bool
) -> dict[str, Any]:
    """Time a form in turn with LOST."""
    form = forms[name]
    # LOST takes turns with itself: how far its ratio is from 1 is the noise.
    running = base if name == BASE else Running(form, mesh)
    turns = TOY_TURNS if toy else TURNS
    seconds, of_base = _in_turn(running.step, base.step, turns, toy)
    tokens = form.config.batch_size * form.config.data.seq_len
    chip = find_chip(jax.devices()[0].device_kind)
    flops = flops_per_token(form.config) * tokens
    row: dict[str, Any] = {
        "seconds": seconds,
        "of_base": seconds / of_base,
        "tokens_per_second": tokens / seconds,
        "mfu": None if chip is None else flops / seconds / chip.flops,
        "kernels": count_kernels(form.step.as_text()),
    }
    if form.layer is not None:
        layer, of_base = _in_turn(running.layer, base.layer, turns, toy)
        row |= {"layer_seconds": layer, "layer_of_base": layer / of_base}
    del running
    gc.collect()
    return row | {"status": "done"}


def _in_turn(
    one: Callable[[], Any], other: Callable[[], Any], turns: int, toy: bool
) -> tuple[float, float]:
    """Return both medians of seconds a call, from blocks of calls in turn."""
    calls = []
    for call in (one, other):
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        once = time.perf_counter() - start
        calls.append(1 if toy else max(1, round(BLOCK / once)))
    readings: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for call, n_calls, taken in zip((one, other), calls, readings, strict=True):
            start = time.perf_counter()
            for _ in range(n_calls):
                result = call()
            jax.block_until_ready(result)
            taken.append((time.perf_counter() - start) / n_calls)
    return statistics.median(readings[0]), statistics.median(readings[1])


def torch_command(size: str, *, kind: str) -> list[str]:
    """Return the command that times PyTorch's dense model of the same shape."""
    config = configure(size, FORMS["dense"], kind=kind)
    model = config.model
    sizes = (
        model.d_model,
        model.d_hidden,
        model.n_layers,
        model.n_heads,
        config.batch_size,
        config.data.seq_len,
    )
    script = str(Path(__file__).with_name("torch_llama.py"))
    return [sys.executable, script, *map(str, sizes)]
