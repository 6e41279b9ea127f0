"""Panics of the `tokenizers` library, which is written in Rust, as errors of one line.

The rules of a tokenizer.json may hold a regular expression that backtracks without end
on some text. The library then panics: it prints a backtrace on the process's standard
error, and raises an exception that `except Exception` does not catch.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from lostjax.errors import DataError, first_line


@contextmanager
def refusing_panics(name: str) -> Iterator[None]:
    """Raise a panic in the `with` block as a `DataError`, and print nothing of it.

    What anything else prints on standard error meanwhile is printed at the end.

    Args:
      name: name of the tokenizer in the message.

    Raises:
      DataError: if the library panicked.
    """
    printed = _Held()
    try:
        yield
    except BaseException as error:
        # The library has no public name for its exception.
        if type(error).__name__ != "PanicException":
            printed.release()
            raise
        printed.discard()
        raise DataError(
            f"{name}: a rule of this tokenizer fails on the text: {first_line(error)}"
        ) from None
    printed.release()


class _Held:
    """Standard error of the process, also of native code, held in a file."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._stderr = -1
        # Without room for a file, or without a standard error, nothing is held.
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
            self._stderr = os.dup(2)
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (`discard` closes it)
            os.dup2(self._file.fileno(), 2)

    def release(self) -> None:
        """Print what was held."""
        self._restore()
        if self._file is not None:
            self._file.seek(0)
            with suppress(OSError):  # a pipe that nobody reads any more
                while block := self._file.read(1 << 16):
                    os.write(2, block)
            self._file.close()

    def discard(self) -> None:
        """Forget what was held."""
        self._restore()
        if self._file is not None:
            self._file.close()

    def _restore(self) -> None:
        if self._stderr >= 0:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
