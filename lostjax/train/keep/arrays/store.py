"""Write and read trees of arrays with orbax; the only module that imports it.

A directory has one item per tree. Arrays are written in the background. A failed save
can leave orbax's threads waiting for each other for minutes; they are daemon threads,
which do not hold up the end of the program.
"""

import asyncio
import errno
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint.options import AsyncOptions

from lostjax.train.devices.sharding import place_shapes
from lostjax.train.keep.arrays.aliases import open_alias
from lostjax.typing import PyTree

STALLED_SECONDS = 300.0
"""Seconds without one more byte on the disk after which a save is given up."""

_NOISY = ("absl", "asyncio")
"""Loggers of the tracebacks of a failed save."""

_MOST_ERRORS = 100
"""Bound on the exceptions of one failed save that are discarded."""


class ArrayStore:
    """Saves and restores trees of arrays; at most one save at a time."""

    def __init__(self) -> None:
        for name in _NOISY:
            logging.getLogger(name).addFilter(_is_no_failed_save)
        if sys.unraisablehook is sys.__unraisablehook__:
            # Until the end of the program: threads of a failed save may be late.
            sys.unraisablehook = _show_unraisable
        # A directory that cannot be made must fail at once: if orbax makes directories
        # in the background, its threads wait for them and delay the exit by minutes.
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=AsyncOptions(create_directories_asynchronously=False),
        )
        self._stack = ExitStack()

    def save(self, directory: Path, **items: PyTree) -> None:
        """Start to save trees of arrays; returns when they are copied.

        Call it in a daemon thread: the threads that orbax starts inherit that.

        Args:
          directory: a new directory in an existing one.
          items: trees of arrays by name; may be donated after this returns.

        Raises:
          Exception: orbax's, if it cannot be written.
        """
        self._stack.close()
        parent = self._stack.enter_context(open_alias(directory.parent))
        saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._orbax.save(
            parent / directory.name, args=ocp.args.Composite(**saved), force=True
        )

    def finish(self, count_written: Callable[[], int]) -> None:
        """Wait until the save is written.

        Args:
          count_written: counts the bytes on the disk so far.

        Raises:
          Exception: orbax's, if it could not be written.
          TimeoutError: if nothing was written for `STALLED_SECONDS`.
        """
        raised: list[Exception] = []

        def wait() -> None:
            try:
                self._orbax.wait_until_finished()
            except Exception as error:
                raised.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        written, since = -1, time.monotonic()
        while waiting.is_alive():
            waiting.join(timeout=min(1.0, STALLED_SECONDS / 4))
            now = count_written()
            if now != written:
                written, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED_SECONDS:
                said = f"nothing was written for {STALLED_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, said)
        if raised:
            raise raised[0]

    def drain(self) -> None:
        """Discard the errors of a failed save, which later calls would raise."""
        # Orbax raises the errors of its background writes one at a time.
        for _ in range(_MOST_ERRORS):
            with suppress(Exception):
                self._orbax.wait_until_finished()
                break

    def restore(self, directory: Path, *, mesh: Mesh, **items: PyTree) -> Any:
        """Restore trees of arrays onto a mesh.

        Args:
          directory: where they were saved.
          mesh: the devices.
          items: trees of shapes and types by name.

        Returns:
          Trees of arrays by name.

        Raises:
          ValueError, KeyError, OSError: if they cannot be read, or are others.
        """
        wanted = {
            name: ocp.args.StandardRestore(place_shapes(tree, mesh))
            for name, tree in items.items()
        }
        with open_alias(directory.parent) as parent:
            return self._orbax.restore(
                parent / directory.name, args=ocp.args.Composite(**wanted)
            )

    def close(self, *, wait: bool) -> None:
        """End orbax's threads.

        Args:
          wait: wait for them; False after a save that failed.
        """
        if wait:
            self._orbax.close()
            # After a failed save the filters stay: its threads may still log.
            for name in _NOISY:
                logging.getLogger(name).removeFilter(_is_no_failed_save)
        self._stack.close()


def describe_arrays(tree: PyTree) -> Counter[tuple[tuple[int, ...], str]]:
    """Count the arrays of a tree by shape and type."""
    return Counter(
        (tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in jax.tree.leaves(tree)
    )


def check_readable(
    directory: Path, **items: Counter[tuple[tuple[int, ...], str]]
) -> None:
    """Open every array of saved trees, without reading their values.

    Args:
      directory: where they were saved.
      items: `describe_arrays` of the trees by name.

    Raises:
      OSError: if a tree cannot be opened, or has other arrays.
    """
    handler = ocp.StandardCheckpointHandler()
    with open_alias(directory.parent) as parent:
        for name, wanted in items.items():
            try:
                # epath: the handler itself takes no other path.
                found = handler.metadata(epath.Path(parent / directory.name / name))
            except (ValueError, KeyError, OSError) as error:
                raise OSError(
                    errno.EIO, f"{name} cannot be read again: {str(error)[:100]}"
                ) from error
            if describe_arrays(found.tree) != wanted:
                raise OSError(errno.EIO, f"{name} has other arrays when read again")


def _show_unraisable(unraisable: Any) -> None:
    """Print an exception that nobody can catch, unless a failed save left it.

    Threads of tensorstore call back an event loop that orbax has closed by then; and a
    loop that got no open files is half made, which its end does not expect.
    """
    error = unraisable.exc_value
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return
    if unraisable.object is asyncio.BaseEventLoop.__del__ and isinstance(
        error, AttributeError
    ):
        return
    sys.__unraisablehook__(unraisable)


def _is_no_failed_save(record: logging.LogRecord) -> bool:
    """Filter out the tracebacks of failed saves, which are reported elsewhere."""
    if not record.exc_info:
        return True
    if record.name != "asyncio":
        return "orbax" not in Path(record.pathname).parts
    # Results of orbax's threads that nobody waits for any more.
    _, error, trace = record.exc_info
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
    is_theirs = any("orbax" in Path(file).parts for file in files)
    return not (is_theirs or "tensorstore" in repr(error))
