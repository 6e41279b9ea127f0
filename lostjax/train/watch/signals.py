"""Turn signals into a request to stop, which the loop reads between steps.

The first of SIGTERM, SIGINT (Ctrl-C), SIGQUIT and SIGHUP (the terminal was closed)
requests that the run saves and stops. A second signal ends the process at once: its
handler is the kernel's default, because Python's own handlers do not run while the
process waits for a compiler. With several processes a signal to one of them is enough.
In a notebook a second signal does what it did before, or it would end the kernel.

While the programs are compiled there is nothing to save, and Python's handlers do not
run either: that can take minutes, in which a scheduler loses patience. In a block of
`leaving_at_once` a thread that the kernel wakes ends the process at the first signal.

SIGHUP never counts as the second signal, and what follows it is the first: whoever
closes a terminal sends it twice, and often SIGTERM after it. `nohup` starts a program
with SIGHUP ignored, and it stays ignored.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
        self.leave: Callable[[int], None] | None = None
        """Ends the process while there is nothing to save; see `leaving_at_once`."""
        self.is_watched = False
        """Whether a thread sees the signals at once."""
        self.asked = 0
        """The first signal of this process; 0 before."""
        self._agree = agree

    def ask(self, number: int) -> None:
        """Request that the run stops; safe in any thread or signal handler."""
        self.asked = self.asked or number

    def poll(self) -> bool:
        """Return whether to stop now; all processes call it at the same points."""
        if self.signal is None:
            self.signal = self._agree(self.asked) or None
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
def leaving_at_once(request: StopRequest, tidy: Callable[[], None]) -> Iterator[None]:
    """End the process at the first signal, for a `with` block that does not train.

    It does so also in the midst of a compilation. Without `catch_stop_signals` around
    it in the main thread, or in a notebook, the block runs as it is.

    Args:
      request: what the signals ask.
      tidy: called before the exit, in another thread.
    """

    def leave(number: int) -> None:
        _write_error(f"\n{signal.Signals(number).name}: stopped before a step\n")
        tidy()
        os._exit(128 + number)

    if request.is_watched:
        request.leave = leave
        if request.asked:
            leave(request.asked)
    try:
        yield
    finally:
        request.leave = None


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
        if request.leave is not None:
            return  # the thread that saw the signal ends the process
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
        _write_error(_SAID.format(signal.Signals(number).name, verb))

    for number in _CAUGHT:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, ask)
    try:
        with nullcontext() if second is None else _waking(request):
            yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, _restorable(handler))


@contextmanager
def _waking(request: StopRequest) -> Iterator[None]:
    """Let a thread see the signals that Python's handlers see, but at once."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(reading, 1):
            if (leave := request.leave) and number[0] in _CAUGHT:
                leave(number[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    request.is_watched = True
    try:
        yield
    finally:
        request.is_watched = False
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _write_error(text: str) -> None:
    """Write what a signal may say in the midst of a print."""
    text = _SHOW_CURSOR + text if os.isatty(2) else text
    with suppress(OSError):  # nobody reads standard error any more
        os.write(2, text.encode())


def _restorable(handler: Any) -> Any:
    """Return a handler that can be installed: None stands for one not from Python."""
    return signal.SIG_DFL if handler is None else handler
