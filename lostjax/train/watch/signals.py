"""SIGTERM and Ctrl-C as a wish that the loop reads between steps.

The first signal asks the run to save and stop; a second one ends the process at once,
whatever it is at: the kernel does it, for Python may be waiting for a compiler. Of
several processes it is enough that one is asked.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SAID = "\n{}: saving and stopping; a second signal leaves at once\n"
_SHOW_CURSOR = "\x1b[?25h"  # progress hides it, and a second signal tidies nothing


class StopAsked(Exception):
    """The run was asked to stop."""


class StopRequest:
    """Whether and by which signal the run was asked to stop."""

    def __init__(self, agree: Callable[[int], int] = lambda number: number) -> None:
        """Start without a request.

        Args:
          agree: this process's signal, 0 for none -> that of the run.
        """
        self.signal: int | None = None
        """By which signal the run stops, once that is settled."""
        self._asked = 0
        self._agree = agree

    def ask(self, number: int) -> None:
        """Wish the run to stop, from any thread or handler."""
        self._asked = self._asked or number

    def poll(self) -> bool:
        """Say whether to stop now; all processes call it at the same points."""
        if self.signal is None:
            self.signal = self._agree(self._asked) or None
        return self.signal is not None

    def check(self) -> None:
        """Raise where `poll` says so.

        Raises:
          StopAsked: to stop now.
        """
        if self.poll():
            raise StopAsked

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells have it: 143 for SIGTERM, 130 for Ctrl-C; else 0."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def catch_stop_signals(request: StopRequest) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a wish for a `with` block."""
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.ask(number)
        for caught in before:
            signal.signal(caught, signal.SIG_DFL)
        said = _SAID.format(signal.Signals(number).name)
        said = _SHOW_CURSOR + said if os.isatty(2) else said
        os.write(2, said.encode())  # print may be what was interrupted

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for caught, handler in before.items():
            # None: it was not Python's, such as a library's.
            signal.signal(caught, signal.SIG_DFL if handler is None else handler)
