"""Wait for the other processes of a run, and print what is waited for.

A call of JAX that waits for other processes does so in C++, and no handler of Python's
runs there: Ctrl-C would be heard only when the others come. The call therefore gets a
thread of its own, and the thread that waits for that one prints.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

FIRST_SECONDS = 2.0
"""Seconds before the first line: most processes are started together."""

EACH_SECONDS = 15.0
"""Seconds between lines."""

_T = TypeVar("_T")


class WaitedTooLong(Exception):
    """Raised if the other processes did not come in time."""


def wait_aloud(
    work: Callable[[], _T], *, what: Callable[[], str], seconds: float | None = None
) -> _T:
    """Call a function that waits for other processes, and print what it waits for.

    Args:
      work: called in another thread, which is left behind after an interrupt and after
        `seconds`.
      what: returns what is waited for, as `process 1 of 2`; called for each line.
      seconds: how long to wait; None: for ever.

    Returns:
      The result of `work`.

    Raises:
      WaitedTooLong: if the call took longer than that.
      Exception: the exception of `work`.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=call, name="waiting", daemon=True).start()
    bound = "" if seconds is None else f"; gives up after {seconds:.0f} s"
    began, due = time.monotonic(), FIRST_SECONDS
    while not ended.wait(
        max(min(due, seconds or due) - (time.monotonic() - began), 0.0)
    ):
        waited = time.monotonic() - began
        if seconds is not None and waited >= seconds:
            raise WaitedTooLong
        if waited >= due:
            text = f"waiting for {what()} ({waited:.0f} s{bound})"
            print(text, file=sys.stderr, flush=True)
            due += EACH_SECONDS * (1 + (waited - due) // EACH_SECONDS)
    if errors:
        raise errors[0]
    return results[0]
