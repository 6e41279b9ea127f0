"""Hold the directory of a run, also if somebody deletes or renames it meanwhile.

A run of days must not lose its state because its directory is gone: before each save
the directory is made anew if nothing has its name. Files that the run appends to are
written anew there, see `lostjax.disk.lines`.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from lostjax.errors import ConfigError


class HeldDirectory:
    """The directory of a run that only this process writes.

    Use it as a context manager, in the first process of a run.

    Args:
      directory: the directory.
      hold: makes, locks and describes the directory for a `with` block; see
        `train.keep.directory.hold_run_dir`.
    """

    def __init__(
        self, directory: Path, hold: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._directory, self._hold = directory.absolute(), hold
        self._stack = ExitStack()
        self._seen: os.stat_result | None = None

    def __enter__(self) -> "HeldDirectory":
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def ensure(self) -> None:
        """Make the directory anew if it was deleted or renamed, with a message.

        Raises:
          OSError: if another directory has its name, or it cannot be made.
        """
        assert self._seen is not None
        try:
            now = self._directory.stat()
        except FileNotFoundError:
            self._make_anew()
            return
        if not os.path.samestat(now, self._seen):
            raise OSError(
                errno.ESTALE, f"{self._directory} is another directory than it was"
            )

    def _make_anew(self) -> None:
        print(
            f"{self._directory}: was deleted or renamed while the run was writing it; "
            "it is made again, without its older checkpoints",
            file=sys.stderr,
        )
        try:
            self._take()
        except ConfigError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _take(self) -> None:
        self._stack.enter_context(self._hold())
        self._seen = self._directory.stat()
