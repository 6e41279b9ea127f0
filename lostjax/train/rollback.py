"""Going back after a loss spike: to the last checkpoint, and past the batches since.

    spike at step s, checkpoint at c < s:     offset += s - c
    batch of step k, counted from 0           = batch_at(k + offset)

Parameters, optimiser, schedule, past outputs and the window of losses are those of c
again; step c + 1 takes the batch after the one that spiked. A loss that is not finite
is no spike: its update is not taken, and the run goes on.

All that decides is in the state: the offset, the step of the checkpoint (the last that
was due, not one that a stop signal made), how often the run went back. So a run that
was killed or stopped, before a spike, in going back or after, does what it would have
done. What was saved after c is deleted first: nothing goes on from it. Where c itself
is not whole the newest checkpoint that is takes its place.

Going back costs reading a checkpoint, and the steps from c to s.
"""

from typing import NamedTuple

import jax
import numpy as np

from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job
from lostjax.train.build.run import start_state
from lostjax.train.keep.checkpoints import Checkpoints
from lostjax.train.keep.directory import refusing_disk_errors
from lostjax.train.recorder import Recorder
from lostjax.train.watch.diagnosis import report_spike
from lostjax.train.watch.verdict import Spike


class RolledBack(NamedTuple):
    """A run after a spike."""

    state: TrainState
    """Of the checkpoint, with the offset that passes over the batches since."""
    exit_code: int | None
    """Of a run that ends here because it rolled back too often; None if it goes on."""


def start_at(job: Job, checkpoints: Checkpoints, step: int) -> TrainState:
    """Make the first state, for step 0, or restore that of a checkpoint."""
    if step:
        return checkpoints.restore(job.abstract, step=step, mesh=job.mesh)
    return start_state(job)


def set_anchor(state: TrainState, step: int) -> TrainState:
    """Let later spikes return to a step, whose checkpoint is about to be made.

    Args:
      state: not used up.
      step: its step.
    """
    anchor = _scalar_like(state.guard.anchor, step)
    return state._replace(guard=state.guard._replace(anchor=anchor))


def find_anchor(job: Job, state: TrainState) -> int | None:
    """Return the step whose checkpoint must be kept; None if no spike needs one."""
    if job.config.guard.spike != "rollback" or int(state.step) >= job.config.steps:
        return None
    return int(state.guard.anchor)


def roll_back(
    job: Job,
    state: TrainState,
    *,
    spike: Spike,
    recorder: Recorder,
    checkpoints: Checkpoints,
) -> RolledBack:
    """Return from a spike to the last checkpoint; all processes call this.

    Args:
      job: the run.
      state: after the spike; it is deleted, because there may be no room for two.
      spike: the spike.
      recorder: forgets the steps that are repeated, unless the run ends here.
      checkpoints: restore the state; forget later ones, unless the run ends here.

    Raises:
      ConfigError: if there are checkpoints and none is whole, or files cannot be cut
        or deleted.
    """
    offset, rollbacks = int(state.offset), int(state.guard.rollbacks)
    first = checkpoints.find_way_back(int(state.guard.anchor))
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    state = start_at(job, checkpoints, first)
    there = rollbacks - int(state.guard.rollbacks)
    if there >= job.config.guard.patience:
        code = report_spike(job, spike, offset=offset, rollbacks=there)
        return RolledBack(state, code)
    with refusing_disk_errors(job.directory):
        checkpoints.forget_after(first)
        recorder.roll_back(spike, step=first)
    guard = state.guard._replace(
        rollbacks=_scalar_like(state.guard.rollbacks, rollbacks + 1)
    )
    passed_over = _scalar_like(state.offset, offset + spike.step - first)
    return RolledBack(state._replace(offset=passed_over, guard=guard), None)


def _scalar_like(leaf: jax.Array, value: int) -> jax.Array:
    """Place a number like another one, on any number of processes."""
    number = np.asarray(value, leaf.dtype)
    return jax.make_array_from_callback((), leaf.sharding, lambda _: number)
