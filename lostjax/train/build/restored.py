"""Restore the variables of a run's model from a checkpoint of it."""

from pathlib import Path

import jax

from lostjax.errors import ConfigError
from lostjax.steps.state import model_variables
from lostjax.train.build.optimizer import evaluation_variables, trains_elsewhere
from lostjax.train.build.run import Run
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.directory import CHECKPOINTS
from lostjax.train.keep.recovery import explain_bare_steps
from lostjax.train.keep.step_directories import list_bare_steps, list_steps
from lostjax.typing import Variables


def choose_step(directory: Path, *, step: int | None) -> int:
    """Choose a checkpoint of a run.

    Args:
      directory: the run's directory.
      step: the step of the checkpoint; None for the newest.

    Returns:
      The step.

    Raises:
      ConfigError: if there is no such checkpoint, with those that there are.
    """
    steps = list_steps(directory / CHECKPOINTS)
    if not steps and list_bare_steps(directory / CHECKPOINTS):
        raise ConfigError(explain_bare_steps(directory / CHECKPOINTS))
    if not steps:
        raise ConfigError(f"{directory}: has no checkpoint yet")
    chosen = max(steps) if step is None else step
    if chosen not in steps:
        there = ", ".join(map(str, steps))
        raise ConfigError(
            f"--step={chosen}: {directory} has checkpoints of steps {there}"
        )
    return chosen


def read_variables(
    directory: Path, run: Run, *, step: int, average: bool, dtype: str
) -> Variables:
    """Restore the variables that a run is evaluated with.

    Args:
      directory: the run's directory.
      run: its parts, on the mesh to restore to.
      step: one of its checkpoints.
      average: restore the moving average of the parameters, which the run keeps.
      dtype: type to which the parameters are rounded.

    Returns:
      Params and channels. The optimiser's state is read only if it holds them.

    Raises:
      ConfigError: if the checkpoint is damaged or of another model.
    """
    with open_checkpoints(directory / CHECKPOINTS) as checkpoints:
        if not average and not trains_elsewhere(run.config.optim):
            abstract = model_variables(run.abstract)
            return checkpoints.restore_model(
                abstract, step=step, mesh=run.mesh, dtype=dtype
            )
        return _read_through_state(
            checkpoints, run, step=step, average=average, dtype=dtype
        )


def _read_through_state(
    checkpoints: Checkpoints, run: Run, *, step: int, average: bool, dtype: str
) -> Variables:
    state = checkpoints.restore(run.abstract, step=step, mesh=run.mesh)
    variables_of = run.trajectory.average if average else evaluation_variables
    assert variables_of is not None
    found = variables_of(state)
    rounded = jax.tree.map(lambda x: x.astype(dtype), found["params"])
    return {**found, "params": rounded}
