"""Compile a training step for hardware that may be absent, and estimate its needs.

    peak memory   from the compiler: arguments + temporaries + program + outputs that
                  do not alias an argument; of the program that weighs tokens by a
                  reference too, which lies on the device beside the state
    times         counts / the chip's published figures, see `plan.needs`

Counts are those of `plan.costs`: static, from the compiled program.
"""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from lostjax.nn import activation_bytes
from lostjax.plan.costs import Costs, count_costs, sum_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.plan.layout import describe_run, lay_mesh
from lostjax.plan.needs import Plan, Times, split_memory
from lostjax.plan.targets import Target
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import xla_attention
from lostjax.train.build.programs import lower_step, lower_weighing
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.chips import Chip
from lostjax.train.devices.mesh import count_batch_shards
from lostjax.train.devices.sharding import place_shapes, shard_bytes


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
    if config.model.attention == "auto":  # what every device has: at most more memory
        config = replace_in(config, "model", attention="xla")
    mesh = lay_mesh(config, target)
    run = describe_run(config, mesh)
    state = place_shapes(run.abstract, mesh)
    began = time.monotonic()
    compiled, peak = _compile(lower_step(run, state))
    weighing, held = None, 0.0
    if run.reference is not None:
        held = float(shard_bytes(place_shapes(run.reference.abstract, mesh)))
        weighing, beside = _compile(lower_weighing(run))
        peak = max(peak + held, beside + shard_bytes(state))
    seconds = time.monotonic() - began
    length = config.data.seq_len
    axes = dict(mesh.shape)
    micro_batches = count_micro_batches(config, mesh=mesh)
    rows = config.batch_size // micro_batches // count_batch_shards(mesh)
    # The form of attention decides what autodiff keeps: that of the target's platform.
    placed = run.model.clone(attend=xla_attention(mesh))
    costs = None if compiled is None else _read_costs(compiled, axes)
    if costs is not None and weighing is not None:
        also = _read_costs(weighing, axes)
        costs = None if also is None else sum_costs(costs, also)
    chip = target.chip
    return Plan(
        name=config.preset,
        config=config,
        topology=target.name,
        device=target.kind,
        mesh=axes,
        micro_batches=micro_batches,
        memory=split_memory(
            state,
            compiled,
            peak=peak,
            activations=float(activation_bytes(placed, batch_size=rows, length=length)),
            capacity=None if chip is None else chip.memory,
            reference=held,
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
