"""A run in memory: trained and evaluated, nothing written but caches.

For sweeps and comparisons, which want the numbers of many short runs and none of their
files. The programs, the data order and the numbers are those of `train.loop`.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from lostjax.errors import ConfigError
from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job, prepare_job
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.programs import compile_steps
from lostjax.train.build.run import start_state
from lostjax.train.config.schema import TrainConfig
from lostjax.train.evaluate import Evaluation, evaluate_heldout
from lostjax.train.stepping import Stepping


class Finished(NamedTuple):
    """A run and the state that it ended with."""

    job: Job
    state: TrainState


class Trial(NamedTuple):
    """What came out of a run in memory."""

    losses: list[float]
    """Training loss of every step, nats per token."""
    evaluation: Evaluation
    """Of the final model on the held-out text."""
    parameters: int
    """Trainable parameters outside embedding and head."""
    max_attention_logit: float | None = None
    """The largest of all watched steps (`stability.every`); None without any."""
    mean_log_z: float | None = None
    """Mean log of the softmax's partition function in the last watched step's batch."""
    past_evaluation: Evaluation | None = None
    """Of the moving average of the parameters, where one is kept (mesa)."""
    evaluations: Mapping[int, Evaluation] = MappingProxyType({})
    """On the held-out text along the way, by step, every `eval_every` steps, and at the
    end."""
    past_evaluations: Mapping[int, Evaluation] = MappingProxyType({})
    """Of the moving average along the way, where one is kept."""
    finished: Finished | None = None
    """What was trained, to look at more of it."""


def run_trial(config: TrainConfig) -> Trial:
    """Train a configuration from the start and evaluate it once at the end.

    Args:
      config: what to run; `run_dir`, checkpoints and profile are not used.

    Returns:
      Losses and the final evaluation; a run that diverged has NaN losses. So has one
      that `train.loop` would stop, from there on: its parameters stand still.

    Raises:
      ConfigError, DataError: as `train.loop.train` does.
    """
    if config.guard.spike == "rollback":
        raise ConfigError(
            "--guard.spike=rollback: not here, for a run in memory has no checkpoint "
            "to go back to; skip leaves the spikes' updates out"
        )
    job = prepare_job(config)
    state = start_state(job)
    compiled = compile_steps(job, state)
    losses, readings = [], []
    evaluations: dict[int, Evaluation] = {}
    past_evaluations: dict[int, Evaluation] = {}

    def evaluate(step: int, state: TrainState) -> None:
        if 0 < config.guard.patience <= int(state.guard.in_a_row):
            nothing = Evaluation(math.nan, math.nan, math.nan, 0)
            evaluations[step] = past_evaluations[step] = nothing
            return
        variables = evaluation_variables(state)
        evaluations[step] = evaluate_heldout(job, compiled, variables)
        if job.trajectory.average is not None:
            past = job.trajectory.average(state)
            past_evaluations[step] = evaluate_heldout(job, compiled, past)

    steps = Stepping(job, compiled, state)
    del state  # it is used up
    for step, metrics in steps:
        losses.append(metrics["loss"])
        if "readings" in metrics:
            seen = metrics["readings"]
            readings.append((seen.attention_logits.max(), seen.mean_log_z))
        jax.block_until_ready(losses[-2:-1])  # as `evaluate`: at most two in flight
        is_last = step == config.steps
        if is_last or (config.eval_every and step % config.eval_every == 0):
            evaluate(step, steps.state)
    logits, log_z = zip(*readings, strict=True) if readings else ((), ())
    inner = [leaf.size for leaf in jax.tree.leaves(steps.state.params["layers"])]
    return Trial(
        losses=[float(loss) for loss in losses],
        evaluation=evaluations[config.steps],
        parameters=sum(inner),
        max_attention_logit=float(np.max(logits)) if logits else None,
        mean_log_z=float(log_z[-1]) if log_z else None,
        past_evaluation=past_evaluations.get(config.steps),
        evaluations=evaluations,
        past_evaluations=past_evaluations,
        finished=Finished(job, steps.state),
    )
