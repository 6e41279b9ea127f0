"""What a run needs before its first step: checked and built, not yet compiled."""

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from lostjax.trees import count_bytes
from lostjax.train.devices.provide import provide_devices
from lostjax.data import Data, prepare_data
from lostjax.nn import Transformer, count_flops
from lostjax.train.config.checks import check_config
from lostjax.train.devices.chips import find_chip
from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.hosts import join_hosts
from lostjax.train.devices.mesh import (
    count_batch_shards,
    make_mesh,
    parse_mesh,
)
from lostjax.train.build.model import build_model, build_multipliers
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.devices.platform import runs_on_cpu, settle_platform
from lostjax.train.devices.compilation_cache import keep_programs
from lostjax.train.keep.directory import check_same_data, choose_run_dir
from lostjax.steps.state import TrainState
from lostjax.train.build.state import abstract_state, abstract_variables, init_state
from lostjax.train.build.trajectory import Trajectory, build_trajectory



class Setup(NamedTuple):
    """Everything about a run that does not change while it runs."""

    config: TrainConfig
    directory: Path
    mesh: Mesh
    data: Data
    model: Transformer
    """The model, not bound to a mesh."""
    tx: optax.GradientTransformation
    schedule: Callable[[int], float]
    """Learning rate of each step."""
    trajectory: Trajectory
    """The past that the model is compared with."""
    abstract: TrainState
    """Shapes and types of the state."""
    flops_per_token: float
    """Training FLOPs per token, of the model's products."""
    peak: float | None
    """FLOP/s of all devices together; None where the chip's peak is not known."""

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the checkpoints that will be on disk at once."""
        anchors = 1 if self.config.guard.spike == "rollback" else 0
        return count_bytes(self.abstract) * (self.config.keep + 1 + anchors)


def prepare(config: TrainConfig) -> Setup:
    """Check and build all of a run that is not yet a run. Writes only caches.

    Raises:
      ConfigError, DataError: naming what is wrong and what would be right.
    """
    check_config(config)
    provide_devices(config)
    join_hosts(config.hosts)
    mesh = make_mesh(config.mesh)
    keep_programs()
    check_batch(config, mesh)
    if jax.process_count() > 1 and config.run_dir is None:
        raise ConfigError("--run-dir: several processes need one, the same for all")
    directory = choose_run_dir(config)
    data = prepare_data(
        config.data.source,
        heldout=config.data.heldout,
        tokenizer=config.data.tokenizer,
        seq_len=config.data.seq_len,
        batch_size=config.batch_size,
        seed=config.seed,
        cache_dir=config.data.cache_dir,
    )
    check_same_data(directory, data.identity)
    model = build_model(config.model, vocab_size=data.vocab_size)
    tx, schedule = build_optimizer(
        config.optim,
        steps=config.steps,
        multipliers=build_multipliers(config.model, vocab_size=data.vocab_size),
    )
    trajectory = build_trajectory(config, data)
    tx = optax.chain(tx, *trajectory.track) if trajectory.track else tx
    chip = find_chip(jax.devices()[0].device_kind)
    return Setup(
        config=config,
        directory=directory,
        mesh=mesh,
        data=data,
        model=model,
        tx=tx,
        schedule=schedule,
        trajectory=trajectory,
        abstract=describe_state(model, tx, trajectory),
        flops_per_token=count_step_flops(config, model, trajectory),
        peak=None if chip is None else chip.flops * mesh.size,
    )


def count_step_flops(
    config: TrainConfig, model: Transformer, trajectory: Trajectory
) -> float:
    """Count the FLOPs of a training step for each token, of the model's products.

    SAM takes two gradients; each set of past parameters is a forward pass more.
    """
    flops = count_flops(model, length=config.data.seq_len)
    gradients = 2 if config.objective.sam_radius else 1
    return float(gradients * flops.train + len(trajectory.track) * flops.forward)


def describe_state(
    model: Transformer, tx: optax.GradientTransformation, trajectory: Trajectory
) -> TrainState:
    """Trace the state's making: here layers and optimisers refuse what does not fit."""
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
      ConfigError: with the nearest batch sizes that can be.
    """
    shards = count_batch_shards(mesh)
    rows = config.batch_size // config.accumulate
    if rows % shards:
        unit = shards * config.accumulate
        below, above = rows // shards * unit, (rows // shards + 1) * unit
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"--batch-size={config.batch_size}: with --accumulate={config.accumulate} "
            f"it must be a multiple of {unit}, for --mesh={config.mesh} cuts each "
            f"micro-batch into {shards} (data x fsdp); {near} would do"
        )


def start_state(run: Setup) -> TrainState:
    """Make the first state of a run, from its seed."""
    return init_state(
        run.model,
        run.tx,
        mesh=run.mesh,
        key=jax.random.key(run.config.seed),
        init_memory=run.trajectory.init_memory,
    )


