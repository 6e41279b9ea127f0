"""Compile a training step for hardware that may be absent, and estimate its needs.

    peak memory   from the compiler: arguments + temporaries + program + outputs that
                  do not alias an argument
    compute       FLOPs / the chip's peak         \\
    memory        HBM bytes / its bandwidth        } the longest of these is a lower
    network       bytes sent / one ring's rate    /  bound of a step's time
    MFU           the model's FLOPs, without recomputation / (that time x peak)

Counts are those of `plan.costs`: static, from the compiled program. Seconds and MFU are
estimated from published peaks, not measured.
"""

import logging
import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from lostjax.data import count_tokens
from lostjax.nn import activation_bytes
from lostjax.plan.costs import Costs, count_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.plan.targets import Target
from lostjax.steps.state import TrainState
from lostjax.train.build.job import prepare_text
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import xla_attention
from lostjax.train.build.programs import lower_step
from lostjax.train.build.run import Run, build_run
from lostjax.train.config.checks import check_config
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.chips import Chip
from lostjax.train.devices.mesh import count_batch_shards, resolve_mesh
from lostjax.train.devices.sharding import place_shapes
from lostjax.typing import PyTree


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: float
    optimizer: float
    """Optimiser state, kept channels, and past outputs."""
    gradients: float
    """Estimated as the size of the parameters; part of the temporaries."""
    activations: float
    """Estimated: what autodiff keeps for the backward pass, part of the temporaries."""
    temporaries: float | None
    """Reported by the compiler; None if it ran out of memory."""
    peak: float
    """Reported by the compiler."""
    capacity: float | None
    """Memory of a device; None if it is not known."""

    @property
    def fits(self) -> bool | None:
        """Whether the peak is at most the capacity; None if that is not known."""
        return None if self.capacity is None else self.peak <= self.capacity


class Times(NamedTuple):
    """Lower bounds of a step's time in seconds, by resource; estimates."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """The largest of the bounds."""
        return max(self)

    @property
    def binding(self) -> str:
        """Name of the resource with the largest bound."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Plan(NamedTuple):
    """The needs of a configuration on some hardware."""

    name: str
    """Name of the preset."""
    config: TrainConfig
    topology: str
    device: str
    """JAX's `device_kind`."""
    mesh: Mapping[str, int]
    """Mesh axis to size."""
    micro_batches: int
    """Number of micro-batches in a step."""
    memory: Memory
    costs: Costs | None
    """None if the compiler ran out of memory, or jaxlib cannot read its program."""
    model_flops: float
    """FLOPs of the model per step and device, without recomputation."""
    times: Times | None
    """None if the chip's figures or the costs are not known."""
    peak_flops: float | None
    """Peak FLOP/s of the chip; None if they are not known."""
    compile_seconds: float

    @property
    def tokens(self) -> int:
        """Number of tokens in a step."""
        return self.config.batch_size * self.config.data.seq_len

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation at the estimated time; None if that is not known."""
        if self.times is None or self.peak_flops is None:
            return None
        return self.model_flops / (self.times.step * self.peak_flops)


def describe_run(config: TrainConfig, mesh: Mesh) -> Run:
    """Build a run as the trainer does, on a mesh whose devices may be abstract.

    The text is read only if the objective depends on the number of its rows. A
    tokenizer file is always read.

    Args:
      config: already checked.
      mesh: the devices.

    Returns:
      The run.

    Raises:
      ConfigError, DataError: see `make_plan`.
    """
    if config.objective.trajectory.name == "none":
        size = count_tokens(config.data.tokenizer)
        return build_run(config, mesh=mesh, vocab_size=size)
    data = prepare_text(config)
    return build_run(config, mesh=mesh, vocab_size=data.vocab_size, rows=data.train)


def make_plan(config: TrainConfig, target: Target) -> Plan:
    """Compile a configuration's training step for some hardware; nothing is run.

    Args:
      config: the configuration; its mesh is laid on the target's devices.
      target: see `find_target`.

    Returns:
      The plan.

    Raises:
      ConfigError, DataError: if the trainer would refuse the configuration.
    """
    check_config(config)
    mesh = lay_mesh(config, target)
    run = describe_run(config, mesh)
    state = place_shapes(run.abstract, mesh)
    began = time.monotonic()
    compiled, peak = _compile(lower_step(run, state))
    seconds = time.monotonic() - began
    length = config.data.seq_len
    axes = dict(mesh.shape)
    micro_batches = count_micro_batches(config, mesh=mesh)
    rows = config.batch_size // micro_batches // count_batch_shards(mesh)
    # The form of attention decides what autodiff keeps: that of the target's platform.
    placed = run.model.clone(attend=xla_attention(mesh))
    costs = None if compiled is None else _read_costs(compiled, axes)
    chip = target.chip
    return Plan(
        name=config.preset,
        config=config,
        topology=target.name,
        device=target.kind,
        mesh=axes,
        micro_batches=micro_batches,
        memory=_split_memory(
            state,
            compiled,
            peak=peak,
            activations=float(activation_bytes(placed, batch_size=rows, length=length)),
            capacity=None if chip is None else chip.memory,
        ),
        costs=costs,
        model_flops=run.flops_per_token * config.batch_size * length / mesh.size,
        times=_estimate_times(costs, chip),
        peak_flops=None if chip is None else chip.flops,
        compile_seconds=seconds,
    )


_OUT_OF_MEMORY = re.compile(
    r"(?:Used |HLO temporaries \()([\d.]+)([KMGT]?)"
    r"(?: of [\d.]+[KMGT]? hbm|\) exceeds available HBM)"
)
"""Matches both messages of a TPU's compiler; the second one counts temporaries only."""


def _read_costs(compiled: Any, axes: Mapping[str, int]) -> Costs | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        # A libtpu newer than jaxlib may use instructions that jaxlib does not know.
        logging.getLogger(__name__).warning(
            "this jaxlib cannot read the compiled program: its FLOPs, bytes and "
            "collectives are unknown (pip install 'jax[tpu]' installs the libtpu that "
            "matches jaxlib): %s",
            str(error).partition("\n")[0],
        )
        return None
    return count_costs(parse_program(text), axes=axes)


def lay_mesh(config: TrainConfig, target: Target) -> Mesh:
    """Arrange a target's devices in a configuration's mesh.

    Raises:
      ConfigError: if the mesh does not fit the devices.
    """
    found = f"{len(target.devices)} x {target.kind}"
    axes = resolve_mesh(config.mesh, n_devices=len(target.devices), found=found)
    sizes = tuple(axes.values())
    devices = np.array(target.devices[: math.prod(sizes)]).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def _estimate_times(costs: Costs | None, chip: Chip | None) -> Times | None:
    if costs is None or chip is None:
        return None
    return Times(
        costs.flops / chip.flops,
        costs.hbm_bytes / chip.bandwidth,
        costs.network_bytes / chip.network,
    )


def _compile(lowered: Any) -> tuple[Any | None, float]:
    """Compile; return the program and its peak memory in bytes.

    If the compiler runs out of memory, return None and the bytes that it reports.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _OUT_OF_MEMORY.search(str(error))
        if used is None:
            raise
        return None, float(used[1]) * 1024.0 ** " KMGT".index(used[2] or " ")
    # Donated arguments are reused for outputs, which must not be counted twice.
    found = compiled.memory_analysis()
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    code = found.generated_code_size_in_bytes
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    return compiled, float(arguments + temporaries + max(0, new) + code)


def _split_memory(
    state: TrainState,
    compiled: Any | None,
    *,
    peak: float,
    activations: float,
    capacity: float | None,
) -> Memory:
    parameters = shard_bytes(state.params)
    temporaries = None
    if compiled is not None:
        temporaries = compiled.memory_analysis().temp_size_in_bytes
    return Memory(
        parameters=parameters,
        optimizer=shard_bytes((state.opt_state, state.channels, state.memory)),
        gradients=parameters,
        activations=activations,
        temporaries=temporaries,
        peak=peak,
        capacity=capacity,
    )


def shard_bytes(tree: PyTree) -> float:
    """Sum the bytes of a tree of sharded shapes on each device."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        shard = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shard) * leaf.dtype.itemsize
    return total
