"""A run in memory: trained and evaluated, nothing written but caches.

For sweeps and comparisons, which want the numbers of many short runs and none of their
files. The programs, the data order and the numbers are those of `train.loop`.
"""

from typing import NamedTuple

import jax

from lostjax.train.config import TrainConfig
from lostjax.train.evaluate import Evaluation, evaluate
from lostjax.train.mesh import place_batch
from lostjax.train.optimizer import evaluation_variables
from lostjax.train.setup import compile_steps, prepare
from lostjax.train.state import init_state


class Trial(NamedTuple):
    """What came out of a run in memory."""

    losses: list[float]
    """Training loss of every step, nats per token."""
    evaluation: Evaluation
    """Of the final model on the held-out text."""
    parameters: int
    """Trainable parameters outside embedding and head."""


def run_trial(config: TrainConfig) -> Trial:
    """Train a configuration from the start and evaluate it once at the end.

    Args:
      config: what to run; `run_dir`, checkpoints and profile are not used.

    Returns:
      Losses and the final evaluation; a run that diverged has NaN losses.

    Raises:
      ConfigError, DataError: as `train.loop.train` does.
    """
    run = prepare(config)
    key = jax.random.key(config.seed)
    state = init_state(run.model, run.tx, mesh=run.mesh, key=key)
    compiled = compile_steps(run, state)
    losses = []
    for step in range(config.steps):
        batch = place_batch(
            lambda rows, step=step: run.data.train.batch_at(step, rows=rows),  # type: ignore[misc]
            mesh=run.mesh,
            batch_size=config.batch_size,
        )
        state, metrics = compiled.train(state, batch)
        losses.append(metrics["loss"])
        jax.block_until_ready(losses[-2:-1])  # as `evaluate`: at most two in flight
    evaluation = evaluate(
        compiled.evaluate,
        evaluation_variables(state),
        plan=run.data.heldout,
        n_bytes=run.data.heldout_bytes,
        mesh=run.mesh,
    )
    inner = [leaf.size for leaf in jax.tree.leaves(state.params["layers"])]
    return Trial([float(loss) for loss in losses], evaluation, sum(inner))
