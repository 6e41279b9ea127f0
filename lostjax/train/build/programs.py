"""A run's programs: the training step and the evaluation, lowered and compiled."""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.data import Batch
from lostjax.nn import Transformer
from lostjax.train.config.schema import TrainConfig
from lostjax.steps.faults import parse_faults
from lostjax.steps.faults import put_faults
from lostjax.steps.gradient import GradientOf, make_gradient
from lostjax.steps.guard import Guard
from lostjax.train.devices.mesh import BATCH_SPEC, count_batch_shards, tree_shardings
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import place_model
from lostjax.train.build.objective import build_terms
from lostjax.train.build.reweighting import build_reweighting
from lostjax.train.build.run import Setup
from lostjax.steps.state import TrainState, model_variables
from lostjax.steps.step import (
    EvalStep,
    Metrics,
    TrainStep,
    make_eval_step,
    make_train_step,
)
from lostjax.train.build.trajectory import Trajectory


class Compiled(NamedTuple):
    """The run's programs."""

    train: TrainStep
    watched: TrainStep | None
    """The same step with readings; None where there are none."""
    watch_every: int
    """Steps from one watched step to the next."""
    evaluate: EvalStep
    seconds: float
    """Wall-clock seconds of compiling the training step."""
    temporary_bytes: int | None
    """The compiler's temporary memory of a training step, per device."""

    def advance(
        self, state: TrainState, batch: Batch, *, step: int
    ) -> tuple[TrainState, Metrics]:
        """Do step number `step`, counted from 1; every N-th one is watched."""
        if self.watched is not None and step % self.watch_every == 0:
            return self.watched(state, batch)
        return self.train(state, batch)


def compile_steps(run: Setup, state: TrainState) -> Compiled:
    """Compile the training steps ahead of time; the evaluation compiles on first use.

    Args:
      run: the run.
      state: its state, for shapes and shardings; not used up.
    """
    model = place_model(run.model, config=run.config.model, mesh=run.mesh)
    lower = partial(
        lower_step,
        run.config,
        state,
        mesh=run.mesh,
        model=run.model,
        tx=run.tx,
        trajectory=run.trajectory,
    )
    began = time.monotonic()
    train = lower().compile()
    every = run.config.stability.every
    watched = lower(watch=True).compile() if every else None
    seconds = time.monotonic() - began
    variables = model_variables(tree_shardings(run.abstract, run.mesh))
    rows = NamedSharding(run.mesh, BATCH_SPEC)
    whole = NamedSharding(run.mesh, P())
    return Compiled(
        train=train,
        watched=watched,
        watch_every=every,
        evaluate=jax.jit(
            make_eval_step(model, shards=count_batch_shards(run.mesh)),
            in_shardings=(variables, rows),
            out_shardings=whole,
        ),
        seconds=seconds,
        temporary_bytes=getattr(train.memory_analysis(), "temp_size_in_bytes", None),
    )


def lower_step(
    config: TrainConfig,
    state: TrainState,
    *,
    mesh: Mesh,
    model: Transformer,
    tx: optax.GradientTransformation,
    trajectory: Trajectory,
    watch: bool = False,
) -> Any:
    """Lower the training step for a mesh, whose devices need not be here.

    Args:
      config: already checked.
      state: arrays, or shapes with shardings; not used up.
      mesh: where the step runs.
      model: not bound to a mesh.
      tx: the optimiser, with what tracks past parameters.
      trajectory: the past that the model is compared with.
      watch: also take readings.

    Returns:
      A `jax.stages.Lowered`.
    """
    model = place_model(model, config=config.model, mesh=mesh)
    gradient = _configure_gradient(
        config, mesh=mesh, model=model, trajectory=trajectory, watch=watch
    )
    step = make_train_step(gradient, tx, guard=build_guard(config))
    shardings = (tree_shardings(state, mesh), NamedSharding(mesh, P()))
    jitted = jax.jit(step, donate_argnums=0, out_shardings=shardings)
    return jitted.lower(state, abstract_batch(config, NamedSharding(mesh, BATCH_SPEC)))


def build_gradient(run: Setup) -> GradientOf:
    """Build what gives the gradient that a run's step uses; not compiled."""
    model = place_model(run.model, config=run.config.model, mesh=run.mesh)
    return _configure_gradient(
        run.config, mesh=run.mesh, model=model, trajectory=run.trajectory, watch=False
    )


def build_guard(config: TrainConfig) -> Guard:
    """Build the rule by which updates are not taken."""
    optim, guard = config.optim, config.guard
    is_frugal_by_svd = optim.name == "frugal" and optim.subspace == "svd"
    return Guard(
        patience=guard.patience,
        sigma=None if guard.spike == "none" else guard.sigma,
        window=guard.window,
        check_updates=optim.name == "galore" or is_frugal_by_svd,
    )


def _configure_gradient(
    config: TrainConfig,
    *,
    mesh: Mesh,
    model: Transformer,
    trajectory: Trajectory,
    watch: bool,
) -> GradientOf:
    """Build what a configuration asks of the gradient; the model is bound already."""
    gradient = make_gradient(
        model,
        accumulate=count_micro_batches(config, mesh=mesh),
        terms=build_terms(config.objective, trajectory, model=model),
        reweight=build_reweighting(config.objective, steps=config.steps),
        remember=trajectory.remember,
        sam_radius=config.objective.sam_radius,
        watch=watch,
        shards=count_batch_shards(mesh),
    )
    return put_faults(gradient, parse_faults(config.guard.fault))


def abstract_batch(config: TrainConfig, sharding: NamedSharding | None) -> Batch:
    """Give the shapes and types of a batch."""
    shape = (config.batch_size, config.data.seq_len)

    def leaf(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)

    whole = leaf(shape, jnp.int32)
    return Batch(
        tokens_BT=whole,
        targets_BT=whole,
        weights_BT=leaf(shape, jnp.float32),
        segments_BT=whole,
        positions_BT=whole,
        example_B=leaf(shape[:1], jnp.int32),
        epoch_B=leaf(shape[:1], jnp.int32),
    )
