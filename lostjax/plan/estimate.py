"""A training step compiled for hardware that need not be here, and what it needs.

    peak memory   the compiler's: arguments + temporaries + program + what is put out
                  and takes no argument's place
    compute       FLOPs / the chip's peak         \\
    memory        HBM bytes / its bandwidth        } the longest binds; a step cannot be
    network       bytes sent / one ring's rate    /  faster, and may well be slower
    MFU           the model's own FLOPs (no recomputation) / (that time x peak)

Counts are those of `plan.costs`: static, from the compiled program. Seconds and MFU are
estimates from published peaks, never measured ones.
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
from lostjax.train.devices.mesh import count_batch_shards, place_shapes, resolve_mesh
from lostjax.typing import PyTree


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: float
    optimizer: float
    """The optimiser's state, kept channels, and past outputs."""
    gradients: float
    """As large as the parameters: estimated, part of the temporaries."""
    activations: float
    """What autodiff keeps for the backward pass: estimated, part of the temporaries."""
    temporaries: float | None
    """The compiler's; None where it gave up for want of memory."""
    peak: float
    """The compiler's."""
    capacity: float | None
    """What a device has; None where that is not known."""

    @property
    def fits(self) -> bool | None:
        """Whether the peak is below the capacity."""
        return None if self.capacity is None else self.peak <= self.capacity


class Times(NamedTuple):
    """Seconds that a step takes at least, by what it waits for; estimates."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """The longest of them."""
        return max(self)

    @property
    def binding(self) -> str:
        """Which of them that is."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Plan(NamedTuple):
    """A configuration on some hardware."""

    name: str
    """Of the preset."""
    config: TrainConfig
    topology: str
    device: str
    """What JAX calls the device."""
    mesh: Mapping[str, int]
    micro_batches: int
    """In which a step is done."""
    memory: Memory
    costs: Costs | None
    """None where the compiler gave up, or its program cannot be read here."""
    model_flops: float
    """Of a step and a device, recomputation not counted."""
    times: Times | None
    """None where the chip's figures or the costs are not known."""
    peak_flops: float | None
    """The chip's."""
    compile_seconds: float

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.config.batch_size * self.config.data.seq_len

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation at the estimated time."""
        if self.times is None or self.peak_flops is None:
            return None
        return self.model_flops / (self.times.step * self.peak_flops)


def describe_run(config: TrainConfig, mesh: Mesh) -> Run:
    """Build a run as the trainer would, on a mesh whose devices need not be here.

    The text is read only if the objective depends on the number of its rows, or the
    tokenizer is a file.

    Args:
      config: already checked.
      mesh: where it would run.

    Raises:
      ConfigError, DataError: as `make_plan` does.
    """
    if config.objective.trajectory.name == "none":
        size = count_tokens(config.data.tokenizer)
        return build_run(config, mesh=mesh, vocab_size=size)
    data = prepare_text(config)
    return build_run(config, mesh=mesh, vocab_size=data.vocab_size, rows=data.train)


def make_plan(config: TrainConfig, target: Target) -> Plan:
    """Compile a configuration's training step for some hardware.

    Args:
      config: what would be trained; its mesh is laid on the target's devices.
      target: see `find_target`.

    Returns:
      The plan. Nothing is run.

    Raises:
      ConfigError, DataError: as the run itself would.
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
"""Both things that a TPU's compiler says; the second one counts temporaries alone."""


def _read_costs(compiled: Any, axes: Mapping[str, int]) -> Costs | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        # A compiler younger than jaxlib may know instructions that jaxlib does not.
        logging.getLogger(__name__).warning(
            "this jaxlib cannot read the compiled program, whose FLOPs, bytes and "
            "collectives stay unknown (pip install 'jax[tpu]' brings the libtpu that "
            "goes with it): %s",
            str(error).partition("\n")[0],
        )
        return None
    return count_costs(parse_program(text), axes=axes)


def lay_mesh(config: TrainConfig, target: Target) -> Mesh:
    """Lay a configuration's mesh on a target's devices."""
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
    """Compile; gives the program, or None and the bytes that it would have needed."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _OUT_OF_MEMORY.search(str(error))
        if used is None:
            raise
        return None, float(used[1]) * 1024.0 ** " KMGT".index(used[2] or " ")
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
    """Sum the bytes that a tree of sharded shapes takes on each device."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        shard = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shard) * leaf.dtype.itemsize
    return total
