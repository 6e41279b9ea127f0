"""Checkpoints of a run: the only door to orbax.

A checkpoint is two items, so that a reader of the model needs no optimiser:
`model` (params and channels) and `progress` (step, optimiser state, and past outputs
where there are any). Saves are
asynchronous and atomic: a step counts once its directory has its final name, and what
a killed save left behind is removed when the run is opened again.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from lostjax.train.config import ConfigError
from lostjax.train.mesh import tree_shardings
from lostjax.train.state import TrainState, model_variables
from lostjax.typing import PyTree, Variables


class Checkpoints:
    """The checkpoints in one directory."""

    def __init__(self, directory: Path, *, keep: int | None = None) -> None:
        """Open (and with `keep`, make) a directory of checkpoints.

        Args:
          directory: absolute or relative; made where it is missing and keep is given.
          keep: how many of the newest steps to keep; None only reads.
        """
        with _without_remarks():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=keep is not None,
                cleanup_tmp_directories=keep is not None,
                read_only=keep is None,
            )
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest_step(self) -> int | None:
        """Give the newest finished step, or None."""
        step: int | None = self._manager.latest_step()
        return step

    def all_steps(self) -> list[int]:
        """List the finished steps in order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, *, step: int) -> None:
        """Start saving a state; returns once it is copied, before it is on disk."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model_variables(state)),
                progress=ocp.args.StandardSave(_progress(state)),
            ),
            force=True,
        )

    def restore(self, abstract: TrainState, *, step: int, mesh: Mesh) -> TrainState:
        """Read a state onto a mesh, whichever mesh it was saved from.

        Args:
          abstract: shapes and types, as `abstract_state` gives them.
          step: one of `all_steps`.
          mesh: where to.

        Returns:
          The state, sharded by the table of `train.mesh`.

        Raises:
          ConfigError: where it cannot be read, or is of another model.
        """
        model, progress = (
            ocp.args.StandardRestore(_placed(tree, mesh))
            for tree in (model_variables(abstract), _progress(abstract))
        )
        found = self._read(step, model=model, progress=progress)
        return TrainState(
            step=found["progress"]["step"],
            params=found["model"]["params"],
            channels=found["model"].get("channels", {}),
            opt_state=found["progress"]["opt_state"],
            memory=found["progress"].get("memory"),
        )

    def restore_model(self, abstract: Variables, *, step: int, mesh: Mesh) -> Variables:
        """Read only params and channels onto a mesh; raises as `restore` does."""
        placed = ocp.args.StandardRestore(_placed(abstract, mesh))
        variables: Variables = self._read(step, model=placed)["model"]
        return variables

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            path = self._manager.directory / str(step)
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"{path}: cannot be read as a checkpoint: {reason}"
            ) from error

    def wait(self) -> None:
        """Block until every started save is on disk; raises what it failed with."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish saves and free the threads."""
        self._manager.close()


@contextmanager
def open_checkpoints(
    directory: Path, *, keep: int | None = None
) -> Iterator[Checkpoints]:
    """Open a directory of checkpoints for a `with` block; see `Checkpoints`."""
    checkpoints = Checkpoints(directory, keep=keep)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Open what is only read without orbax's warnings that it is only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _progress(state: TrainState) -> dict[str, PyTree]:
    progress = {"step": state.step, "opt_state": state.opt_state}
    return progress if state.memory is None else progress | {"memory": state.memory}


def _placed(tree: PyTree, mesh: Mesh) -> PyTree:
    def place(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree, tree_shardings(tree, mesh))
