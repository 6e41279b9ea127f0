"""Turn signals into a request to stop, which the loop reads between steps.

The first of SIGTERM, SIGINT (Ctrl-C), SIGQUIT and SIGHUP (the terminal was closed)
requests that the run saves and stops. A second signal ends the process at once: its
handler is the kernel's default, because Python's own handlers do not run while the
process waits for a compiler. With several processes a signal to one of them is enough.
In a notebook a second signal does what it did before, or it would end the kernel.

SIGHUP never counts as the second signal, and what follows it is the first: whoever
closes a terminal sends it twice, and often SIGTERM after it. `nohup` starts a program
with SIGHUP ignored, and it stays ignored.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SAID = "\n{}: saving and stopping; a second signal {} at once\n"
_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
# The progress line hides the cursor, and nothing restores it after a second signal.
_SHOW_CURSOR = "\x1b[?25h"


class StopAsked(Exception):
    """Raised if the run was requested to stop."""


class StopRequest:
    """A request to stop the run, and its signal."""

    def __init__(self, agree: Callable[[int], int] = lambda number: number) -> None:
        """Start without a request.

        Args:
          agree: maps the signal of this process, 0 for none, to the signal of the run;
            see `train.devices.hosts.agree`.
        """
        self.signal: int | None = None
        """The signal that stops the run, once all processes agree; None before."""
        self._asked = 0
        self._agree = agree

    def ask(self, number: int) -> None:
        """Request that the run stops; safe in any thread or signal handler."""
        self._asked = self._asked or number

    def poll(self) -> bool:
        """Return whether to stop now; all processes call it at the same points."""
        if self.signal is None:
            self.signal = self._agree(self._asked) or None
        return self.signal is not None

    def check(self) -> None:
        """Raise if the run is to stop now.

        Raises:
          StopAsked: if `poll` returns True.
        """
        if self.poll():
            raise StopAsked

    @property
    def exit_code(self) -> int:
        """128 + signal, as in shells: 143 for SIGTERM, 130 for Ctrl-C; 0 if none."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def catch_stop_signals(
    request: StopRequest, *, second: signal.Handlers | None = signal.SIG_DFL
) -> Iterator[None]:
    """Turn the signals that end programs into a request, for a `with` block.

    Signals reach the main thread alone: in another thread the block runs as it is.

    Args:
      request: is asked at the first signal.
      second: what handles the second signal; None for what handled it before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.ask(number)
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        else:
            # The kernel's default action ends the process even if Python cannot run a
            # handler.
            for caught in before.keys() - {signal.SIGHUP}:
                signal.signal(
                    caught, _restorable(before[caught]) if second is None else second
                )
        verb = "interrupts" if second is None else "exits"
        said = _SAID.format(signal.Signals(number).name, verb)
        said = _SHOW_CURSOR + said if os.isatty(2) else said
        with suppress(OSError):  # nobody reads standard error any more
            os.write(2, said.encode())  # the signal may have interrupted a print

    for number in _CAUGHT:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, _restorable(handler))


def _restorable(handler: Any) -> Any:
    """Return a handler that can be installed: None stands for one not from Python."""
    return signal.SIG_DFL if handler is None else handler
