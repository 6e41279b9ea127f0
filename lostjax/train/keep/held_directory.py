"""Hold the directory of a run, also if somebody deletes or changes it meanwhile.

A run of days must not lose its state because its directory is gone: before each save
the directory is made anew if nothing has its name. Files that the run appends to are
written anew there, see `lostjax.disk.lines`. The files that describe the run, without
which no checkpoint can be resumed, are written again if they are gone or changed.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from lostjax.disk.files import keep_aside, replace_file
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
        self._contents: dict[Path, bytes] = {}
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

    def keep_files(self, names: Iterable[str]) -> None:
        """Have `ensure` restore files that do not change from now on.

        Args:
          names: names of files in the directory; those that are missing are left out.

        Raises:
          OSError: if a file cannot be read.
        """
        paths = [self._directory / name for name in names]
        self._contents = {path: path.read_bytes() for path in paths if path.exists()}

    def ensure(self) -> None:
        """Make the directory and its files anew if they are gone, with a message.

        Raises:
          OSError: if another directory has its name, or it or a file cannot be made.
        """
        assert self._seen is not None
        try:
            now = self._directory.stat()
        except FileNotFoundError:
            self._make_anew()
            for path, content in self._contents.items():
                replace_file(path, content)
            return
        if not os.path.samestat(now, self._seen):
            raise OSError(
                errno.ESTALE, f"{self._directory} is another directory than it was"
            )

        for path, content in self._contents.items():
            _restore(path, content)

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


def _restore(path: Path, content: bytes) -> None:
    """Write a file again if it is gone or changed."""
    if path.exists():
        if path.read_bytes() == content:
            return
        aside = keep_aside(path)
        print(
            f"{path}: was changed while the run was writing it: kept as {aside.name}, "
            "written again",
            file=sys.stderr,
        )
    else:
        print(f"{path}: was deleted: written again", file=sys.stderr)
    replace_file(path, content)
