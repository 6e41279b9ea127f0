"""SIGTERM and Ctrl-C as a wish that the loop reads between steps.

The first signal asks the loop to save and stop; a second one stops at once, because
the first handler puts the old one back.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether and by which signal the run was asked to stop."""

    def __init__(self) -> None:
        """Start without a request."""
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells have it: 143 for SIGTERM, 130 for Ctrl-C; else 0."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a `StopRequest` for a `with` block."""
    request = StopRequest()
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = number
        for caught, handler in before.items():
            signal.signal(caught, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
