"""The parts of a run that follow from its configuration: one builder for all programs.

The trainer, the plan, generation and the benchmarks build a run here, so that they mean
the same model, optimiser and objective. Nothing is compiled and no array is made.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from lostjax.data import BatchPlan
from lostjax.errors import ConfigError
from lostjax.nn import Transformer, count_flops
from lostjax.steps.state import TrainState
from lostjax.train.build.model import build_model, build_multipliers
from lostjax.train.build.objectives.trajectory import Trajectory, build_trajectory
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import abstract_state, abstract_variables
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.chips import find_chip
from lostjax.train.devices.mesh import count_batch_shards
from lostjax.trees import count_bytes
from lostjax.typing import Variables


class Reference(NamedTuple):
    """The model of another run, which weighs the tokens of this one."""

    model: Transformer
    """Bound to the mesh."""
    abstract: Variables
    """Shapes and types of its variables."""
    load: Callable[[], Variables]
    """Restores the variables onto the mesh; once, they are kept."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that do not change while it runs."""

    config: TrainConfig
    mesh: Mesh
    model: Transformer
    """The model, not bound to the mesh."""
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    """Step -> learning rate."""
    trajectory: Trajectory
    """The past that the model is compared with."""
    abstract: TrainState
    """Shapes and types of the state."""
    reference: Reference | None
    """Weighs the tokens; None: they count alike, or the run is only described."""

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token, of the model's products.

        SAM takes two gradients; each set of past parameters is one more forward pass,
        and so is a reference.
        """
        length = self.config.data.seq_len
        flops = count_flops(self.model, length=length)
        gradients = 2 if self.config.objective.sam_radius else 1
        past = len(self.trajectory.track)
        total = float(gradients * flops.train + past * flops.forward)
        if self.reference is not None:
            total += count_flops(self.reference.model, length=length).forward
        return total

    @property
    def peak_flops(self) -> float | None:
        """Peak FLOP/s of all devices together; None if the chip is not known."""
        chip = find_chip(self.mesh.devices.flat[0].device_kind)
        return None if chip is None else chip.flops * self.mesh.size

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the checkpoints that are on disk at the same time."""
        anchors = 1 if self.config.guard.spike == "rollback" else 0
        return count_bytes(self.abstract) * (self.config.keep + 1 + anchors)


def build_run(
    config: TrainConfig,
    *,
    mesh: Mesh,
    vocab_size: int,
    rows: BatchPlan | None = None,
    reference: Reference | None = None,
) -> Run:
    """Build a run's model, optimiser and objective.

    Args:
      config: already checked.
      mesh: the devices; they need not be here.
      vocab_size: size of the tokenizer's vocabulary.
      rows: the training rows. Without them the run can be described and restored, but
        not trained if its objective depends on their number.
      reference: weighs the tokens of training batches, if the configuration names one.
        A run is described, evaluated and restored without it.

    Returns:
      The run.

    Raises:
      ConfigError: if the mesh does not divide the batch, or parts do not fit together.
    """
    check_batch(config, mesh)
    model = build_model(config.model, vocab_size=vocab_size)
    multipliers = build_multipliers(config.model, vocab_size=vocab_size)
    tx, schedule = build_optimizer(
        config.optim, steps=config.steps, multipliers=multipliers
    )
    trajectory = build_trajectory(config, vocab_size=vocab_size, rows=rows)
    tx = optax.chain(tx, *trajectory.track) if trajectory.track else tx
    abstract = describe_state(model, tx, trajectory)
    return Run(config, mesh, model, tx, schedule, trajectory, abstract, reference)


def describe_state(
    model: Transformer, tx: optax.GradientTransformation, trajectory: Trajectory
) -> TrainState:
    """Trace the initialisation: layers and optimisers refuse here what does not fit."""
    try:
        abstract_variables(model)
    except ValueError as error:
        raise ConfigError(f"--model: {error}") from None
    try:
        return abstract_state(
            model, tx, key=jax.random.key(0), init_memory=trajectory.init_memory
        )
    except ValueError as error:
        raise ConfigError(f"--optim: {error}") from None


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Refuse a batch that the mesh cannot cut.

    Raises:
      ConfigError: with the nearest possible batch sizes.
    """
    shards = count_batch_shards(mesh)
    rows = config.batch_size // config.accumulate
    if rows % shards:
        unit = shards * config.accumulate
        below, above = rows // shards * unit, (rows // shards + 1) * unit
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"--batch-size={config.batch_size}: with --accumulate={config.accumulate} "
            f"it must be a multiple of {unit}, because --mesh={config.mesh} cuts each "
            f"micro-batch into {shards} (data x fsdp); {near} would do"
        )
