"""Print what can be printed, and keep every printed line in the log of a run.

    RUN/log.txt     the lines that the run printed, without colours and redrawn lines

Standard output and standard error can break at any time: the reader of a pipe ends, the
disk below a redirected file is full, the terminal is closed, or an encoding lacks a
letter. None of this may stop a run, so its streams never raise.
"""

import errno
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from lostjax.disk.lines import AppendingFile

LOG_FILE = "log.txt"
"""Name of the log in the directory of a run."""

_LINES_WITHOUT_FILE = 1000
"""Number of lines that are kept in memory before there is a directory."""

# A line that is redrawn begins with a return, an erasure or a step upwards.
_REDRAWN = re.compile(r".*(?:\r|\x1b\[2K|\x1b\[\d*A)", re.DOTALL)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class SteadyStream:
    """A text stream whose writes never raise.

    Args:
      stream: where text is written: a file, or what takes its place in notebooks.
      log: called with the same text.
    """

    def __init__(self, stream: Any, log: Callable[[str], None]) -> None:
        self.stream, self._log = stream, log
        # What takes the place of a file in notebooks may not know the question.
        self._is_terminal = bool(getattr(stream, "isatty", bool)())
        self.error: int | None = None
        """Number of the last error of writing; None if all was written."""

    def write(self, text: str) -> int:
        """Write and log the text; returns its length."""
        self._log(text)
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            self._write_replaced(text.encode(encoding, "backslashreplace"), encoding)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._note(error)
        if "\n" in text:  # Python would keep a file's lines back until they are 8 kB
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._note(error)

    def isatty(self) -> bool:
        """Return whether this was a terminal at the start.

        rich asks at every line, and would leave a line half erased in the log if the
        answer changed when the terminal is closed.
        """
        return self._is_terminal

    def _write_replaced(self, text: bytes, encoding: str) -> None:
        """Write text in which letters that its encoding lacks are escaped."""
        try:
            self.stream.write(text.decode(encoding))
        except (OSError, ValueError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        self.error = getattr(error, "errno", None) or errno.EBADF

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Output:
    """Standard output and standard error of this process, and their log."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the log prints that its disk is full
        self._early: deque[str] = deque(maxlen=_LINES_WITHOUT_FILE)
        self._file: AppendingFile | None = None
        self.out = SteadyStream(_or_nothing(sys.stdout), self._logger())
        self.err = SteadyStream(_or_nothing(sys.stderr), self._logger())

    def keep_log(self, path: Path) -> None:
        """Write all lines to a file from here on, and those before; see `LOG_FILE`.

        Raises:
          OSError: if the file cannot be opened.
        """
        with self._lock:
            # Imported late: the list of programs works without the extra's packages.
            from lostjax.disk.lines import AppendingFile

            self._file = AppendingFile(path)
            for line in self._early:
                self._file.write(line.encode("utf-8", "backslashreplace"))
            self._early.clear()

    def close_log(self) -> None:
        """Close the file."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _logger(self) -> Callable[[str], None]:
        """Make a function that logs the lines of one stream."""
        rest = ""

        def log(text: str) -> None:
            nonlocal rest
            with self._lock:
                *lines, rest = (rest + text.replace("\r\n", "\n")).split("\n")
                rest = _REDRAWN.sub("", rest)  # or redrawing would take memory
                for line in lines:
                    self._keep(_CONTROL.sub("", _REDRAWN.sub("", line)))

        return log

    def _keep(self, line: str) -> None:
        if not line.strip():
            return
        if self._file is None:
            self._early.append(line + "\n")
        else:
            self._file.write((line + "\n").encode("utf-8", "backslashreplace"))


@contextmanager
def steady_output() -> Iterator[Output]:
    """Let standard output and standard error never raise, for a `with` block."""
    before = sys.stdout, sys.stderr
    output = Output()
    sys.stdout, sys.stderr = cast(TextIO, output.out), cast(TextIO, output.err)
    try:
        yield output
    finally:
        output.close_log()
        sys.stdout, sys.stderr = before
        for steady in (output.out, output.err):
            _drop_unwritten(steady)


def run_program(main: Callable[[], int]) -> int:
    """Run a program that goes on if its output breaks; returns its exit code."""
    _open_standard_files()
    with steady_output():
        return _run(main)


def run_printing_program(main: Callable[[], int]) -> int:
    """Run a program that does nothing but print.

    Returns:
      Its exit code; 141 if the reader of its output ended, as if SIGPIPE had ended it;
      2 if its output could not be written for another reason, after a message.
    """
    _open_standard_files()
    with steady_output() as output:
        code = _run(main)
        output.out.flush()
        if output.out.error == errno.EPIPE:
            return 128 + signal.SIGPIPE
        if output.out.error is not None:
            reason = os.strerror(output.out.error)
            print(f"standard output cannot be written: {reason}", file=sys.stderr)
            return 2
    return code


def _run(main: Callable[[], int]) -> int:
    try:
        return main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _or_nothing(stream: Any) -> Any:
    """Return the stream; a program that was started without one has None."""
    return open(os.devnull, "w") if stream is None else stream


def _open_standard_files() -> None:
    """Open the standard files that the program was started without.

    A checkpoint's file would otherwise get the number of standard error, and libraries
    would print into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)


def _drop_unwritten(steady: SteadyStream) -> None:
    """Drop what a stream could not write, or Python's exit would fail to write it."""
    steady.flush()
    if steady.error is None or steady.stream not in (sys.__stdout__, sys.__stderr__):
        return
    with suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, steady.stream.fileno())
        os.close(handle)
        steady.stream.flush()
