"""Save and restore checkpoints of a run.

A checkpoint has two items, so that a reader of the model needs no optimiser: `model`
(params and channels) and `progress` (step, batches passed over, optimiser state, the
guard's state, and past outputs if there are any). `train.keep.arrays.store` writes the
arrays in the background while training continues; then a thread opens every array
again, hashes all files and commits the step (`train.keep.step_directories`,
`disk.manifest`). Only committed steps are checkpoints, and every file is verified
before it is read.

A save that fails, as on a full disk, is reported and does not stop the run: older
checkpoints are kept, and the next save is tried. With several processes the first one
commits, verifies and chooses steps; all must share one file system.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lostjax.errors import ConfigError
from lostjax.steps.state import TrainState, model_variables
from lostjax.train.devices.hosts import is_first_host, on_first_host
from lostjax.train.keep import step_directories as step_dirs
from lostjax.train.keep.arrays import store as arrays
from lostjax.train.keep.arrays.aliases import open_alias
from lostjax.train.keep.open_files import check_open_files
from lostjax.train.keep.recovery import (
    UNREADABLE,
    check_metadata,
    find_whole_step,
    summarise_damage,
)
from lostjax.typing import PyTree, Variables


def _do_nothing() -> None:
    """Leave a directory that is missing to the save."""


class Checkpoints:
    """The checkpoints in one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        keep: int | None = None,
        ensure_place: Callable[[], None] = _do_nothing,
    ) -> None:
        """Open a directory of checkpoints; with `keep`, for writing.

        Opening for writing makes the directory and removes what failed saves left.

        Args:
          directory: absolute or relative.
          keep: number of newest committed steps to keep, at least 1; None opens the
            directory for reading only.
          ensure_place: called in the first process before each save; makes the run's
            directory anew if it is gone, or raises.

        Raises:
          OSError: if the directory cannot be made, or its path cannot be used.
        """
        self.directory = directory.absolute()
        self._keep, self._ensure_place = keep, ensure_place
        self._verified: int | None = None
        self._asked_step: int | None = None
        self._failed_step: int | None = None
        self._saving: threading.Thread | None = None
        self._arrays = arrays.ArrayStore()
        if keep is not None:
            on_first_host(self._tidy)

    def _tidy(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        step_dirs.remove_leftovers(self.directory)
        with open_alias(self.directory):  # raises before there is anything to lose
            pass

    def latest_step(self) -> int | None:
        """Return the newest committed step; None if there is none."""
        return max(self.all_steps(), default=None)

    def all_steps(self) -> list[int]:
        """List the committed steps in order."""
        return step_dirs.list_steps(self.directory)

    def holds(self, step: int | None) -> bool:
        """Return whether the last save succeeded and a step is there.

        A line is printed if the step is gone. Call this after `wait`; all processes
        call it, and get the same answer.

        Args:
          step: the step; None asks for the save alone.
        """
        return bool(on_first_host(lambda: self._holds(step)))

    def _holds(self, step: int | None) -> bool:
        if self._failed_step is not None or step is None:  # a failure was printed
            return self._failed_step is None
        try:
            is_there = step in self.all_steps()
        except OSError:
            is_there = False
        if not is_there:
            _say(f"{self.directory}: checkpoint {step} was saved, and is gone")
        return is_there

    def find_whole_step(self) -> int | None:
        """Find the step to resume from; see `recovery.find_whole_step`."""
        self._verified = self._asked_step = find_whole_step(self.directory)
        return self._verified

    def find_way_back(self, step: int) -> int:
        """Find the step to roll back to, after waiting for a save under way.

        Args:
          step: the preferred checkpoint's step; 0 for the first state.

        Returns:
          `step` if its checkpoint is whole, otherwise the newest whole step; 0 if
          `step` is 0 or there is no checkpoint.

        Raises:
          ConfigError: if there are checkpoints and none is whole.
        """
        self.wait()
        found = find_whole_step(self.directory, first=step) if step else None
        self._verified = self._asked_step = found
        return found or 0

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps.

        Raises:
          OSError: if one cannot be deleted.
        """
        on_first_host(lambda: step_dirs.delete_after(self.directory, step))

    def save(self, state: TrainState, *, step: int, also: int | None = None) -> None:
        """Start to save a state; returns when it is copied, before it is on disk.

        A step is not saved again if it is the last one that was saved or restored. A
        failure is printed, and sets `failed_step`; nothing is raised.

        Args:
          state: the state to save; may be donated after this returns.
          step: its step.
          also: step of an older checkpoint that is kept in addition to the newest ones.
        """
        # The decision must be the same in every process, and their views of the disk
        # may differ: it depends on memory only.
        if step == self._asked_step:
            return
        self.wait()
        self._asked_step = step
        self._failed_step = step  # until it is committed
        try:
            self._prepare(state)
        except Exception as error:
            self._give_up(step, error)
            return
        # A daemon thread: hashing and syncing the files would delay the next step, and
        # what a failed save leaves behind would delay the end of the program.
        copied = threading.Event()
        self._saving = threading.Thread(
            target=self._save, args=(state, step, also, copied), daemon=True
        )
        self._saving.start()
        copied.wait()

    def _prepare(self, state: TrainState) -> None:
        """Remove leftovers, and raise if the disk has too little room.

        Orbax would notice that, or a limit on open files, only while writing, with many
        tracebacks.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

        def check() -> None:
            self._ensure_place()
            if self.directory.is_symlink():  # since the run began: refused before
                raise OSError(errno.ELOOP, f"{self.directory} became a symbolic link")
            step_dirs.remove_leftovers(self.directory)
            step_dirs.check_room(self.directory, needed=needed)
            check_open_files()

        on_first_host(check)

    def _save(
        self, state: TrainState, step: int, also: int | None, copied: threading.Event
    ) -> None:
        """Write the arrays, commit the step, and delete old steps."""
        place = step_dirs.saving_dir(self.directory, step)
        try:
            try:
                items = {"model": model_variables(state), "progress": _progress(state)}
                wanted = {name: arrays.describe_arrays(x) for name, x in items.items()}
                self._arrays.save(place, **items)
            finally:
                copied.set()  # whatever happens: the run waits for it
            self._arrays.finish(lambda: step_dirs.count_saved_bytes(place))
            if is_first_host():
                arrays.check_readable(place, **wanted)
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
        """Print why a save failed, and remove what it wrote."""
        # Stores of several processes count saves together, but none waits for one that
        # hangs.
        if jax.process_count() > 1 and not isinstance(error, TimeoutError):
            self._arrays.drain()
        else:  # what orbax has left undone would make later saves fail
            self._arrays.close(wait=False)
            self._arrays = arrays.ArrayStore()
        if is_first_host():
            step_dirs.remove_leftovers(self.directory)
        try:
            latest = self.latest_step()
            there = (
                "there is no older one"
                if latest is None
                else f"step {latest} is intact"
            )
        except OSError:
            there = "older ones cannot be read now"
        _say(
            f"checkpoint {step} could not be saved ({_first_words(error)}); {there}, "
            "and the next save will be tried"
        )

    @property
    def failed_step(self) -> int | None:
        """The step of the last save, if it failed; None if it was committed.

        The value is final after `wait` has returned.
        """
        return self._failed_step

    def restore(self, abstract: TrainState, *, step: int, mesh: Mesh) -> TrainState:
        """Restore a state onto a mesh, whichever mesh it was saved from.

        Args:
          abstract: shapes and types, from `abstract_state`.
          step: one of `all_steps`.
          mesh: the devices.

        Returns:
          The state, sharded by the table of `train.devices.mesh`.

        Raises:
          ConfigError: if the checkpoint is damaged, cannot be read, or is of another
            model.
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
        """Restore params and channels only, onto a mesh.

        Args:
          abstract: shapes and types, from `abstract_variables`.
          step: one of `all_steps`.
          mesh: the devices.
          dtype: type to which parameters are rounded, such as bfloat16; None keeps
            theirs. Channels stay integers.

        Returns:
          Params and channels, sharded by the table of `train.devices.mesh`.

        Raises:
          ConfigError: see `restore`.
        """
        if dtype is not None:
            abstract = jax.tree.map(lambda leaf: _cast(leaf, dtype), abstract)
        variables: Variables = self._read(step, mesh=mesh, model=abstract)["model"]
        return variables

    def _read(self, step: int, *, mesh: Mesh, **items: PyTree) -> Any:
        path = step_dirs.step_dir(self.directory, step)
        # One process verifies for all, because hashing reads every byte.
        if self._verified != step and is_first_host():
            damage = step_dirs.find_step_damage(path, items=tuple(items))
            if damage:
                raise ConfigError(f"{path}: is damaged: {summarise_damage(damage)}")
        check_metadata(path, items)
        try:
            return self._arrays.restore(path, mesh=mesh, **items)
        except UNREADABLE as error:
            raise ConfigError(
                f"{path}: cannot be read as a checkpoint: {_first_words(error)}"
            ) from error

    def wait(self) -> None:
        """Block until a save under way is committed or has failed."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def close(self) -> None:
        """Wait for a save under way, and end the threads."""
        self.wait()
        self._arrays.close(wait=self._failed_step is None)
        if self._failed_step is not None and is_first_host():
            step_dirs.remove_leftovers(self.directory)


@contextmanager
def open_checkpoints(
    directory: Path,
    *,
    keep: int | None = None,
    ensure_place: Callable[[], None] = _do_nothing,
) -> Iterator[Checkpoints]:
    """Open a directory of checkpoints for a `with` block; see `Checkpoints`."""
    checkpoints = Checkpoints(directory, keep=keep, ensure_place=ensure_place)
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


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _first_words(error: Exception) -> str:
    """Shorten an error to its cause, without the text that libraries put around it."""
    text = str(error)
    known = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
    for number in (*known, errno.EMFILE, errno.ENFILE):
        if os.strerror(number) in text and not isinstance(error, OSError):
            return os.strerror(number)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(text.split())[:200] or type(error).__name__
