"""Hear at once that another process of the run ended, and end too.

Without it, a death shows only in the transfers that wait for the dead process, if there
are any, or after a minute of missed heartbeats; and JAX then aborts without a word
about the run. Each process holds a connection to a small process beside the first one
(`train.devices.coordinator`). A thread waits for what that one reports.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from jax._src import distributed

from lostjax.errors import ConfigError
from lostjax.train.devices import coordinator

_RETRY_SECONDS = 0.2

_SIGN_SECONDS = 5.0

PATIENCE_SECONDS = 5.0
"""Seconds that all processes have to end after one of them ended before its time, as
they do if they refuse the same thing."""

_GONE = (
    "cannot reach {}, which died or lost its network{}; all processes end; start the "
    "run again to resume it from its newest checkpoint"
)


class Beside(NamedTuple):
    """The process beside the first one, as the first one knows it."""

    port: int
    token: str
    process: "subprocess.Popen[str]"
    """Its standard input must stay open as long as the first process lives."""


def start_beside(*, port: int, processes: int, silent_seconds: int) -> Beside:
    """Start the process beside the first one.

    Args:
      port: where it listens, and serves what `jax.distributed` needs; 0 if JAX serves
        it elsewhere.
      processes: number of processes of the run.
      silent_seconds: seconds after which JAX takes a silent process for dead.

    Raises:
      OSError: if it cannot be started, or cannot listen.
    """
    words = map(str, (port, processes, silent_seconds))
    beside = subprocess.Popen(
        # By its path, because it imports no package; -P, because its directory has
        # modules with names of the standard library.
        [sys.executable, "-P", str(Path(coordinator.__file__)), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Not this process's: who reads that to its end would wait for both.
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process
    )
    assert beside.stdout is not None
    first, _, rest = beside.stdout.readline().partition(" ")
    if not first.isdecimal():
        raise OSError(rest.strip() or "the process beside the first one did not start")
    return Beside(int(first), rest.strip(), beside)


class Connection(NamedTuple):
    """A connection to the process beside the first one, which admitted this one."""

    socket: socket.socket
    lines: TextIO
    """What it sends."""
    service_port: int
    """Port of JAX's service on the first process's host; 0 if it is elsewhere."""


def connect(
    host: str,
    port: int,
    *,
    index: int,
    processes: int,
    token: str = coordinator.ANYBODY,
    attempts: int | None = None,
    note: Callable[[OSError], None] = lambda error: None,
) -> Connection:
    """Connect this process to the one beside the first.

    Args:
      host: the first process's host.
      port: the port that process listens at.
      index: index of this process.
      processes: number of processes.
      token: from `Beside`, if the run is not at the address of its flags.
      attempts: number of attempts; None tries for ever, because the other process may
        start later.
      note: called with the reason, if an attempt fails.

    Raises:
      ConfigError: if the run has no place for this process.
      OSError: if it cannot be reached.
    """
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10)
            connection.settimeout(None)
            coordinator.keep_alive(connection)
            connection.sendall(f"{token} {index} {processes}\n".encode())
            lines = connection.makefile("r", encoding="ascii")
            answer, _, rest = lines.readline().strip().partition(" ")
            if answer == "service":
                return Connection(connection, lines, int(rest))
            if answer == "refused":
                raise ConfigError(f"--hosts: {rest}")
            raise ConnectionError("the run there is about to end")
        except OSError as error:
            attempts = None if attempts is None else attempts - 1
            if attempts == 0 or isinstance(error, socket.gaierror):
                raise
            note(error)
        time.sleep(_RETRY_SECONDS)


class Lifeline:
    """The connection of this process to the one that knows who has ended."""

    def __init__(
        self,
        connection: Connection | None,
        *,
        index: int,
        processes: int,
        beside: Beside | None = None,
    ) -> None:
        """Start to listen.

        Args:
          connection: from `connect`; None if nothing can be heard of the others.
          index: index of this process.
          processes: number of processes.
          beside: held here, because that process ends when it is let go.
        """
        self._connection, self._beside = connection, beside
        self._index, self._processes = index, processes
        self._finished = self._left = self._exits = False
        self._code = 0
        self._ends: dict[int, str] = {}
        self._joined = {index}
        self._news = threading.Condition()
        self._ending = threading.Lock()
        self.last: Callable[[], None] = lambda: None
        """Called before this process ends because of another one; must not wait for
        other processes."""
        if connection is not None:
            for work in (self._listen, self._show_life):
                threading.Thread(target=work, name="lifeline", daemon=True).start()
        # JAX's own function, which waits for all processes, was registered when JAX was
        # imported and so runs after it.
        atexit.register(self._exit)

    def list_missing(self) -> list[int]:
        """List the processes that have not joined the run so far."""
        with self._news:
            return sorted(set(range(self._processes)) - self._joined)

    def finish(self, code: int = 0) -> None:
        """Report that this process has done its part; call it right before its exit.

        Args:
          code: the exit code.
        """
        self._finished, self._code = True, code
        self._send("done")

    def leave(self, code: int) -> int:
        """End before the run's time, together with the others or without them.

        If the others do not end within `PATIENCE_SECONDS`, they are ended, and this
        process exits at once, because JAX's exit would wait for them.

        Args:
          code: the exit code.

        Returns:
          The exit code, if all processes end.
        """
        if self._finished or self._left:
            return code
        self._left = True
        self._send("left")
        with self._news:
            together = self._news.wait_for(
                lambda: len(self._ends) == self._processes - 1, PATIENCE_SECONDS
            )
        if not together:
            _print_last("")
            os._exit(code)
        return code

    def _exit(self) -> None:
        """Prepare for the exit, which waits for all processes."""
        if not self._finished:  # an exception that nobody expected
            self.leave(1)
            return
        with self._news:
            self._exits = True
            gone = "gone" in self._ends.values()
        if gone:
            self._exit_alone()

    def _exit_alone(self) -> None:
        """Exit soon, because a process that was done may have died at its exit."""

        def exit_at_once() -> None:
            _print_last("")
            os._exit(self._code)

        _start_timer(exit_at_once)

    def end(self, text: str) -> None:
        """Print a line that starts with the name of this process, and exit at once.

        The exit code is 1. Nothing is cleaned up, because that would wait for processes
        that are dead, or for processes that wait for this one.
        """
        self._ending.acquire()  # for good: the first thread prints and exits
        _print_last(f"process {self._index} of {self._processes} {text}\n")
        self.last()
        os._exit(1)

    def end_without(self, who: str, reason: str = "") -> None:
        """End because another process is gone; see `end`."""
        self.end(_GONE.format(who, f" ({reason})" if reason else ""))

    def _send(self, word: str) -> None:
        with suppress(OSError):  # the thread finds out why
            if self._connection is not None:
                self._connection.socket.sendall(f"{word}\n".encode())

    def _show_life(self) -> None:
        """Show that this process is not frozen."""
        while True:
            time.sleep(_SIGN_SECONDS)
            self._send(coordinator.HERE.decode().strip())

    def _listen(self) -> None:
        """Take the news, and end if another process is gone."""
        assert self._connection is not None
        with suppress(OSError):
            for line in self._connection.lines:
                how, _, index = line.partition(" ")
                self._hear(int(index), how)
        if not (self._finished or self._left):
            self.end_without("the first process")

    def _hear(self, index: int, how: str) -> None:
        with self._news:
            if how == coordinator.JOINED:
                self._joined.add(index)
                return
            before = self._ends.get(index)
            self._ends[index] = how
            self._news.notify_all()
        if self._left:
            return
        if how == "gone" and before == "done":
            # It had done its part: this process can do its own.
            if self._exits:
                self._exit_alone()
        elif how == "gone":
            self.end_without(f"process {index}")
        elif how == "left":
            # It may be about to end for the same reason, and to print it.
            _start_timer(lambda: self._follow(index))

    def _follow(self, index: int) -> None:
        if not self._left:
            self.end(f"ends, because process {index} did; its own message says why")


# One in a process, as JAX's own connection to the others is.
_held: Lifeline | None = None


def hold_lifeline(line: Lifeline) -> None:
    """Make a lifeline the one that `find_lifeline` returns."""
    global _held
    _held = line


def find_lifeline() -> Lifeline | None:
    """Return this process's lifeline; None if it is the run's only process."""
    joined = distributed.global_state  # `jax.process_count` would start the backend
    if _held is None and joined.num_processes > 1:  # joined by somebody else
        hold_lifeline(
            Lifeline(None, index=joined.process_id, processes=joined.num_processes)
        )
    return _held


def _start_timer(act: Callable[[], None]) -> None:
    timer = threading.Timer(PATIENCE_SECONDS, act)
    timer.daemon = True
    timer.start()


def _print_last(text: str) -> None:
    """Print, and flush what was printed, but do not wait for whoever reads it."""

    def flush(stream: TextIO, text: str) -> None:
        with suppress(OSError, ValueError):
            print(text, end="", file=stream, flush=True)

    for stream, words in ((sys.stdout, ""), (sys.stderr, text)):
        thread = threading.Thread(target=flush, args=[stream, words], daemon=True)
        thread.start()
        thread.join(1)
