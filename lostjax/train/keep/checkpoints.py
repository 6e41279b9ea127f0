"""Checkpoints of a run: the only door to orbax.

A checkpoint is two items, so that a reader of the model needs no optimiser:
`model` (params and channels) and `progress` (step, batches passed over, optimiser
state, the guard's state, and past outputs where there are any). Orbax writes the
arrays while training goes on; then, still beside it, all files are hashed and the step
is committed (`train.keep.step_directories`, `disk.manifest`). Only committed steps
count, and nothing is read unverified.

A save that fails (a full disk) is said and does not stop anything: older checkpoints
stay, and the next save is tried. Of several processes the first one commits, verifies
and chooses; all need one file system.
"""

import errno
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from orbax.checkpoint.options import AsyncOptions

from lostjax.disk.manifest import find_damage
from lostjax.errors import ConfigError
from lostjax.steps.state import TrainState, model_variables
from lostjax.train.devices.hosts import is_first_host, on_first_host
from lostjax.train.devices.mesh import place_shapes
from lostjax.train.keep import step_directories as step_dirs
from lostjax.train.keep.recovery import find_whole_step, summarise_damage
from lostjax.typing import PyTree, Variables

_MOST_ERRORS = 100


class Checkpoints:
    """The checkpoints in one directory."""

    def __init__(self, directory: Path, *, keep: int | None = None) -> None:
        """Open (and with `keep`, make and tidy) a directory of checkpoints.

        Args:
          directory: absolute or relative; made where it is missing and keep is given.
          keep: how many of the newest committed steps to keep, at least 1; None only
            reads.

        Raises:
          OSError: where it cannot be made.
        """
        self.directory = directory.absolute()
        self._keep = keep
        self._verified: int | None = None
        self._asked_step: int | None = None
        self._failed_step: int | None = None
        self._saving: threading.Thread | None = None
        logging.getLogger("absl").addFilter(_is_no_failed_save)
        # Directories that cannot be made must fail at once: made beside the run they
        # leave threads that wait for them, and hold up the program's end for minutes.
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=AsyncOptions(create_directories_asynchronously=False),
        )
        if keep is not None:
            on_first_host(self._tidy)

    def _tidy(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        step_dirs.remove_leftovers(self.directory)

    def latest_step(self) -> int | None:
        """Give the newest committed step, or None."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """List the committed steps in order."""
        return step_dirs.list_steps(self.directory)

    def find_whole_step(self) -> int | None:
        """Find the step to go on from, as `recovery.find_whole_step` does."""
        self._verified = self._asked_step = find_whole_step(self.directory)
        return self._verified

    def find_way_back(self, step: int) -> int:
        """Find where a run can go back to, once the save under way is done.

        Args:
          step: wanted: of a checkpoint, or 0 for the first state.

        Returns:
          That step, where it is whole; else as `find_whole_step`, with 0 for None.
        """
        self.wait()
        found = find_whole_step(self.directory, first=step) if step else None
        self._verified = self._asked_step = found
        return found or 0

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps.

        Raises:
          OSError: where one cannot be deleted.
        """
        on_first_host(lambda: step_dirs.delete_after(self.directory, step))

    def save(self, state: TrainState, *, step: int, also: int | None = None) -> None:
        """Start saving a state; returns once it is copied, before it is on disk.

        The step that was saved or gone on from last is not saved again. What fails is
        said, and seen in `failed_step`.

        Args:
          state: what to save.
          step: its step.
          also: step of an older checkpoint that is kept, however many there are.
        """
        if step == self._asked_step:  # the disk could say other things to each process
            return
        self.wait()
        self._asked_step = step
        self._failed_step = step  # until it is committed
        try:
            self._prepare(state)
            self._orbax.save(
                step_dirs.saving_dir(self.directory, step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model_variables(state)),
                    progress=ocp.args.StandardSave(_progress(state)),
                ),
                force=True,
            )
        except Exception as error:
            self._give_up(step, error)
            return
        self._saving = threading.Thread(target=self._finish, args=(step, also))
        self._saving.start()

    def _prepare(self, state: TrainState) -> None:
        """Make room, or raise where there is too little.

        Orbax would find out too, but in the midst of writing and with much ado.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

        def check() -> None:
            step_dirs.remove_leftovers(self.directory)
            step_dirs.check_room(self.directory, needed=needed)

        on_first_host(check)

    def _finish(self, step: int, also: int | None) -> None:
        """Wait for the arrays, commit the step, and let go of old ones."""
        try:
            self._orbax.wait_until_finished()
            if is_first_host():
                step_dirs.commit(self.directory, step)
        except Exception as error:
            self._give_up(step, error)
            return
        self._failed_step = None
        if is_first_host() and self._keep is not None:
            try:
                step_dirs.retain(self.directory, keep=self._keep, also=also)
            except OSError as error:
                _say(f"old checkpoints cannot be deleted: {error}")

    def _give_up(self, step: int, error: Exception) -> None:
        """Say what a save failed with, and make room for the next."""
        for _ in range(_MOST_ERRORS):  # orbax raises what went wrong one by one
            with suppress(Exception):
                self._orbax.wait_until_finished()
                break
        if is_first_host():
            step_dirs.remove_leftovers(self.directory)
        latest = self.latest_step()
        stand = "there is none yet" if latest is None else f"step {latest} stands"
        _say(
            f"checkpoint {step} could not be saved ({_first_words(error)}); {stand}, "
            "and the next save will be tried"
        )

    @property
    def failed_step(self) -> int | None:
        """The step whose save failed last, unless a later one was committed.

        It knows of a save once `wait` has returned.
        """
        return self._failed_step

    def restore(self, abstract: TrainState, *, step: int, mesh: Mesh) -> TrainState:
        """Read a state onto a mesh, whichever mesh it was saved from.

        Args:
          abstract: shapes and types, as `abstract_state` gives them.
          step: one of `all_steps`.
          mesh: where to.

        Returns:
          The state, sharded by the table of `train.devices.mesh`.

        Raises:
          ConfigError: where it is damaged, cannot be read, or is of another model.
        """
        found = self._read(
            step,
            mesh=mesh,
            model=model_variables(abstract),
            progress=_progress(abstract),
        )
        return TrainState(
            step=found["progress"]["step"],
            offset=found["progress"]["offset"],
            params=found["model"]["params"],
            channels=found["model"].get("channels", {}),
            opt_state=found["progress"]["opt_state"],
            memory=found["progress"].get("memory"),
            guard=found["progress"]["guard"],
        )

    def restore_model(
        self,
        abstract: Variables,
        *,
        step: int,
        mesh: Mesh,
        dtype: DTypeLike | None = None,
    ) -> Variables:
        """Read only params and channels onto a mesh.

        Args:
          abstract: shapes and types, as `abstract_variables` gives them.
          step: one of `all_steps`.
          mesh: where to.
          dtype: type of the parameters, such as bfloat16, to which they are rounded;
            default the one they have. Channels stay integers.

        Returns:
          Params and channels, sharded by the table of `train.devices.mesh`.

        Raises:
          ConfigError: as `restore` does.
        """
        if dtype is not None:
            abstract = jax.tree.map(lambda leaf: _cast(leaf, dtype), abstract)
        variables: Variables = self._read(step, mesh=mesh, model=abstract)["model"]
        return variables

    def _read(self, step: int, *, mesh: Mesh, **items: PyTree) -> Any:
        path = step_dirs.step_dir(self.directory, step)
        # Of several processes the first has verified what all of them read.
        if self._verified != step and is_first_host():
            damage = find_damage(path, items=tuple(items))
            if damage:
                raise ConfigError(f"{path}: is damaged: {summarise_damage(damage)}")
        wanted = {
            name: ocp.args.StandardRestore(place_shapes(tree, mesh))
            for name, tree in items.items()
        }
        try:
            return self._orbax.restore(path, args=ocp.args.Composite(**wanted))
        except (ValueError, KeyError, OSError) as error:
            raise ConfigError(
                f"{path}: cannot be read as a checkpoint: {_first_words(error)}"
            ) from error

    def wait(self) -> None:
        """Block until the save under way is committed or has failed."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def close(self) -> None:
        """Finish saves and free the threads."""
        self.wait()
        self._orbax.close()
        if self._failed_step is not None and is_first_host():
            step_dirs.remove_leftovers(self.directory)
        logging.getLogger("absl").removeFilter(_is_no_failed_save)


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


def _progress(state: TrainState) -> dict[str, PyTree]:
    progress = {
        name: getattr(state, name) for name in ("step", "offset", "opt_state", "guard")
    }
    return progress if state.memory is None else progress | {"memory": state.memory}


def _cast(leaf: jax.ShapeDtypeStruct, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    """Let through what orbax logs, but for tracebacks of what is said here."""
    return record.module != "async_checkpointer"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _first_words(error: Exception) -> str:
    """Say what went wrong, without what libraries wrap around a full disk."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(number) in text and not isinstance(error, OSError):
            return os.strerror(number)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(text.split())[:200] or type(error).__name__
