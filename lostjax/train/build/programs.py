"""Lower and compile a run's programs: the training step and the evaluation."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.nn import Transformer
from lostjax.steps.faults import parse_faults, put_faults
from lostjax.steps.gradient import GradientOf, make_gradient
from lostjax.steps.guard import Guard
from lostjax.steps.state import TrainState, model_variables
from lostjax.steps.step import (
    EvalStep,
    Metrics,
    TrainStep,
    make_eval_step,
    make_train_step,
)
from lostjax.steps.token_weights import make_token_weighting
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import place_model
from lostjax.train.build.objectives.reweighting import build_reweighting
from lostjax.train.build.objectives.terms import build_terms
from lostjax.train.build.optimizer import decomposes_gradients
from lostjax.train.build.run import Run
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stretches import first_steps
from lostjax.train.devices.mesh import count_batch_shards
from lostjax.train.devices.sharding import BATCH_SPEC, place_shapes, tree_shardings

Weigh = Callable[[Batch], Batch]
"""Adds the factors of its tokens to a batch, if a run has a reference."""


class Compiled(NamedTuple):
    """The run's programs."""

    train: TrainStep
    watched: TrainStep | None
    """The same step with readings; None if no readings are taken."""
    watch_every: int
    """Steps from one watched step to the next; 0 without readings."""
    evaluate: EvalStep
    seconds: float
    """Wall-clock seconds that compiling the training steps took."""
    temporary_bytes: int | None
    """Temporary memory of a training step per device, as the compiler reports it; None
    if the backend does not report it."""
    weigh: Weigh
    """Is applied to each batch before its step."""

    def advance(
        self, state: TrainState, batch: Batch, *, step: int
    ) -> tuple[TrainState, Metrics]:
        """Run step number `step`, counted from 1; every `watch_every`-th is watched."""
        batch = self.weigh(batch)
        if self.watched is not None and step % self.watch_every == 0:
            return self.watched(state, batch)
        return self.train(state, batch)


def compile_steps(run: Run, state: TrainState) -> Compiled:
    """Compile the training steps ahead of time; the evaluation compiles on first use.

    Args:
      run: the run.
      state: its state, read for shapes and shardings only; not donated.

    Returns:
      The programs.
    """
    began = time.monotonic()
    # Ahead of time, so that compilation is timed apart from the first step and its
    # memory analysis is known before any step runs.
    train = lower_step(run, state).compile()
    every = run.config.stability.every
    watched = lower_step(run, state, watch=True).compile() if every else None
    seconds = time.monotonic() - began
    variables = model_variables(tree_shardings(run.abstract, run.mesh))
    rows = NamedSharding(run.mesh, BATCH_SPEC)
    whole = NamedSharding(run.mesh, P())
    shards = count_batch_shards(run.mesh)
    return Compiled(
        train=train,
        watched=watched,
        watch_every=every,
        evaluate=jax.jit(
            make_eval_step(_place(run), shards=shards),
            in_shardings=(variables, rows),
            out_shardings=whole,
        ),
        seconds=seconds,
        temporary_bytes=getattr(train.memory_analysis(), "temp_size_in_bytes", None),
        weigh=build_weighing(run),
    )


def lower_step(run: Run, state: TrainState, *, watch: bool = False) -> Any:
    """Lower the training step for the run's mesh, whose devices may be abstract.

    Args:
      run: the run.
      state: arrays, or shapes with shardings; not donated.
      watch: whether the step also takes readings.

    Returns:
      A `jax.stages.Lowered`.
    """
    gradient = build_gradient(run, watch=watch)
    step = make_train_step(gradient, run.tx, guard=build_guard(run.config))
    whole = NamedSharding(run.mesh, P())
    jitted = jax.jit(
        step,
        # The state is donated, so that the new state is written over the old one:
        # otherwise parameters and optimiser state would be in memory twice.
        donate_argnums=0,
        # Equal to the input's shardings, which donation needs.
        out_shardings=(tree_shardings(state, run.mesh), whole),
    )
    rows = NamedSharding(run.mesh, BATCH_SPEC)
    return jitted.lower(state, abstract_batch(run.config, rows))


def build_weighing(run: Run) -> Weigh:
    """Build what adds factors to batches; it restores the run's reference.

    Raises:
      ConfigError: if the reference cannot be read any more, or the run, whose
        configuration names one, was built without it.
    """
    if run.config.objective.token_weights.reference is None:
        return lambda batch: batch
    if run.reference is None:
        raise ConfigError(
            "--objective.token-weights.reference: the run was built without it"
        )
    return partial(jit_weighing(run), run.reference.load())


def jit_weighing(run: Run) -> Any:
    """Jit the program (reference's variables, batch) -> batch with factors."""
    reference, weights = run.reference, run.config.objective.token_weights
    assert reference is not None
    rows = NamedSharding(run.mesh, BATCH_SPEC)
    return jax.jit(
        make_token_weighting(
            reference.model,
            alpha=weights.alpha,
            min_weight=weights.min_weight,
            accumulate=count_micro_batches(run.config, mesh=run.mesh),
            shards=count_batch_shards(run.mesh),
        ),
        in_shardings=(tree_shardings(reference.abstract, run.mesh), rows),
        out_shardings=rows,
    )


def lower_weighing(run: Run) -> Any:
    """Lower the program that weighs a batch, for devices that may be abstract.

    Returns:
      A `jax.stages.Lowered`.
    """
    assert run.reference is not None
    rows = NamedSharding(run.mesh, BATCH_SPEC)
    batch = abstract_batch(run.config, rows)._replace(factors_BT=None)
    variables = place_shapes(run.reference.abstract, run.mesh)
    return jit_weighing(run).lower(variables, batch)


def build_gradient(run: Run, *, watch: bool = False) -> GradientOf:
    """Build the gradient of a run's objective, as a function that is not yet jitted.

    Args:
      run: the run.
      watch: whether it also returns the readings that the layers sow.

    Returns:
      The gradient, as a function of state and batch.
    """
    config = run.config
    model = _place(run)
    gradient = make_gradient(
        model,
        accumulate=count_micro_batches(config, mesh=run.mesh),
        terms=build_terms(config.objective, run.trajectory, model=model),
        reweight=build_reweighting(
            config.objective.reweight, steps=first_steps(config)
        ),
        remember=run.trajectory.remember,
        sam_radius=config.objective.sam_radius,
        watch=watch,
        shards=count_batch_shards(run.mesh),
    )
    return put_faults(gradient, parse_faults(config.guard.fault))


def build_guard(config: TrainConfig) -> Guard:
    """Build the rule that decides which updates are skipped."""
    guard = config.guard
    return Guard(
        patience=guard.patience,
        sigma=None if guard.spike == "none" else guard.sigma,
        window=guard.window,
        check_updates=decomposes_gradients(config.optim),
    )


def _place(run: Run) -> Transformer:
    """Bind the model to the run's mesh."""
    return place_model(
        run.model,
        config=run.config.model,
        mesh=run.mesh,
        length=run.config.data.seq_len,
    )


def abstract_batch(config: TrainConfig, sharding: NamedSharding | None) -> Batch:
    """Return the shapes and types of a batch.

    Args:
      config: its batch size B and row length T.
      sharding: the sharding of every leaf; None leaves it open.

    Returns:
      A `Batch` of `jax.ShapeDtypeStruct`, (B, T) or (B,).
    """
    shape = (config.batch_size, config.data.seq_len)
    weights = config.objective.token_weights

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
        factors_BT=None if weights.reference is None else leaf(shape, jnp.float32),
    )
