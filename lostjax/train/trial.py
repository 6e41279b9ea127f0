"""Train and evaluate a run in memory; nothing is written except for caches.

Trials are for sweeps and comparisons, which need the numbers of many short runs and not
their files. Programs, data order and numbers are those of `train.loop`.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from lostjax.errors import ConfigError
from lostjax.steps.state import TrainState
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import Job, prepare_job
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.programs import compile_steps
from lostjax.train.config.schema import TrainConfig
from lostjax.train.evaluate import Evaluation, evaluate_heldout
from lostjax.train.stepping import Stepping


class Trial(NamedTuple):
    """The results of a run in memory."""

    losses: list[float]
    """Training loss of every step, nats per token."""
    evaluation: Evaluation
    """Evaluation of the final model on the held-out text."""
    parameters: int
    """Number of trainable parameters in the layers, without embedding and head."""
    max_attention_logit: float | None = None
    """Largest attention logit of all watched steps (`stability.every`); None without
    watched steps."""
    mean_log_z: float | None = None
    """Mean log partition function of the softmax in the last watched step's batch; None
    without watched steps."""
    past_evaluation: Evaluation | None = None
    """Evaluation of the moving average of the parameters at the end; None unless the
    run keeps one (mesa)."""
    evaluations: Mapping[int, Evaluation] = MappingProxyType({})
    """Evaluations on the held-out text by step: every `eval_every` steps, and the last
    step."""
    past_evaluations: Mapping[int, Evaluation] = MappingProxyType({})
    """Evaluations of the moving average by step; empty unless the run keeps one."""
    job: Job | None = None
    """The run, to look at more of it."""
    state: TrainState | None = None
    """Its final state."""


def run_trial(config: TrainConfig) -> Trial:
    """Train a configuration from the start, and evaluate it on the way and at the end.

    Args:
      config: the configuration; `run_dir`, checkpoints and profile are not used.

    Returns:
      The results. The losses of a run that diverged are NaN. If `train.loop` would stop
      the run, its parameters no longer change, and its evaluations are NaN from there
      on.

    Raises:
      ConfigError, DataError: see `train.session.train`; also ConfigError for
        `guard.spike` "rollback".
    """
    if config.guard.spike == "rollback":
        raise ConfigError(
            "--guard.spike=rollback: not possible for a run in memory, which has no "
            "checkpoints; --guard.spike=skip skips the updates of spikes"
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
    del state  # the first step donates it
    for step, metrics in steps:
        losses.append(metrics["loss"])
        if "readings" in metrics:
            seen = metrics["readings"]
            readings.append((seen.attention_logits.max(), seen.mean_log_z))
        jax.block_until_ready(losses[-2:-1])  # at most two in flight: see `evaluate`
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
        job=job,
        state=steps.state,
    )
