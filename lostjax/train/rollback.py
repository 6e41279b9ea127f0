"""Roll back after a loss spike to the last checkpoint, and pass over the batches since.

    spike at step s, checkpoint at c < s:     offset += s - c
    batch of step k, counted from 0           = batch_at(k + offset)

Parameters, optimiser, schedule, past outputs and the window of losses are restored from
checkpoint c; step c + 1 uses the batch after the one that spiked. A loss that is not
finite is not a spike: its update is skipped, and the run continues.

Every decision follows from the state: it holds the offset, the step of the checkpoint
(the last one that was due, not one that a stop signal caused) and the number of
rollbacks. A run that is killed or stopped before, during or after a rollback therefore
ends like one that is not. Checkpoints after c are deleted first, so that no run resumes
from them. If checkpoint c is not whole, the newest whole one is used.

A rollback costs the time to restore a checkpoint, and that of the steps from c to s.
"""

from typing import NamedTuple

import jax
import numpy as np

from lostjax.steps.state import TrainState
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import Job
from lostjax.train.keep.checkpoints import Checkpoints
from lostjax.train.keep.directory import refusing_disk_errors
from lostjax.train.recorder import Recorder
from lostjax.train.watch.stop_report import report_spike
from lostjax.train.watch.verdict import Spike


class RolledBack(NamedTuple):
    """A run after a rollback."""

    state: TrainState
    """State of the checkpoint, with the offset that passes over the batches since."""
    exit_code: int | None
    """Exit code of a run that rolled back too often; None if the run continues."""


def start_at(job: Job, checkpoints: Checkpoints, step: int) -> TrainState:
    """Return the first state of a run if `step` is 0, or restore a checkpoint."""
    if step:
        return checkpoints.restore(job.abstract, step=step, mesh=job.mesh)
    return start_state(job)


def set_anchor(state: TrainState, step: int) -> TrainState:
    """Set the step to which later spikes roll back; call it before the step is saved.

    Args:
      state: the state after that step; not donated.
      step: its step.

    Returns:
      The state, with the step as its anchor.
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
    """Roll back from a spike to the last checkpoint; all processes call this.

    Args:
      job: the run.
      state: the state after the spike; it is deleted.
      spike: the spike.
      recorder: drops the steps that are repeated, unless the run ends here.
      checkpoints: the checkpoint is restored from them; later ones are deleted, unless
        the run ends here.

    Returns:
      The restored state, or the exit code of a run that rolled back too often.

    Raises:
      ConfigError: if there are checkpoints and none is whole, or files cannot be cut
        or deleted.
    """
    offset, rollbacks = int(state.offset), int(state.guard.rollbacks)
    first = checkpoints.find_way_back(int(state.guard.anchor))
    # Freed before the restore, because memory may not hold two states.
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
    """Make a scalar with the type and the sharding of another one."""
    number = np.asarray(value, leaf.dtype)
    # Each process fills its own shards, without communication.
    return jax.make_array_from_callback((), leaf.sharding, lambda _: number)
