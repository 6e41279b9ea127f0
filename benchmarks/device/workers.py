"""Processes that measure, and events that they print, one JSON object a line.

A kernel that never ran can end its process, poison its GPU or never return. So each
part of the check runs in a process of its own. If a row ends it, or prints nothing for
too long, a new process runs the rows that are left.
"""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

GRACE = 150.0
"""Seconds in which a process has to say its first word: imports, a GPU's start."""


class Event(dict[str, Any]):
    """What a worker says.

    begin=NAME, limit=SECONDS   the row that it works on, and its patience with it
    row=NAME, status=..., ...   values of a row; `status` makes them complete
    device=..., ...             what it runs on
    ended=TEXT or None          the process is gone, and why if it should not be
    """


def first_line(error: BaseException) -> str:
    """Write an error in one line."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{type(error).__name__}: {text}"[:300]


def stream(
    command: Sequence[str], *, env: Mapping[str, str], deadline: float
) -> Iterator[Event]:
    """Start a process and yield its events; the last one says how it ended.

    Args:
        command: the process; other lines that it prints are left out.
        env: changes of the environment.
        deadline: `time.monotonic()` at which it is stopped.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, **env},
            start_new_session=True,  # its own group, stopped with all it started
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        limit = GRACE
        try:
            while True:
                patience = min(limit, deadline - time.monotonic())
                try:
                    line = lines.get(timeout=max(0.0, patience))
                except queue.Empty:
                    late = time.monotonic() >= deadline
                    why = "deadline" if late else f"no answer in {limit:.0f} s"
                    yield Event(ended=why)
                    return
                if line is None:
                    yield Event(ended=_describe_end(process.wait(), said))
                    return
                if line.startswith("{"):
                    event = Event(json.loads(line))
                    limit = event.get("limit", limit)
                    yield event
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _describe_end(code: int, said: Any) -> str | None:
    if code == 0:
        return None
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the process ended with {how}: {lines[-1] if lines else ''}"[:300]


def run_rows(
    names: Sequence[str],
    start: Callable[[list[str]], Iterator[Event]],
    *,
    take: Callable[[Event], None],
    deadline: float,
) -> None:
    """Run rows, in further processes without the row that ended the last one.

    Args:
        names: the rows, the most telling first.
        start: starts a process for rows and yields its events.
        take: receives events with values.
        deadline: `time.monotonic()` at which the rest is not reached.
    """
    left = list(names)
    while left and time.monotonic() < deadline:
        current, ended = None, None
        for event in start(list(left)):
            current = event.get("begin", current)
            ended = event.get("ended", ended)
            if not {"row", "device"}.isdisjoint(event):
                take(event)
            if "status" in event and event["row"] in left:
                left.remove(event["row"])
        if ended is None or ended == "deadline":
            return
        # Without a row it ended before any: so would the next process.
        guilty = [current] if current in left else list(left)
        for name in guilty:
            take(Event(row=name, status="error", note=ended))
            left.remove(name)
