"""Files of JSON lines that several processes append to.

A line is appended under a lock and has reached the disk when `append_record` returns.
A crash can cut only the last line short: it is not read, and the next append removes
it. A full disk raises an error and leaves the file as it was.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One line of a file."""

    number: int
    """Counted from 1."""
    value: dict[str, Any] | None
    """None if the line is not a JSON object."""


def append_record(path: Path, value: Mapping[str, Any]) -> None:
    """Append a JSON object as one line.

    Args:
        path: The file; made if it is missing. Its folder exists.
        value: What JSON can hold, without NaN and infinities.

    Raises:
        OSError: If the file cannot be written; it has what it had before.
    """
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # closing the file releases it
        end = _find_end(handle)
        os.ftruncate(handle, end)
        try:
            _write(handle, line, end)
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, end)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def read_records(path: Path) -> list[Record]:
    """Read a file's lines except a torn last one; no file has none."""
    if not path.exists():
        return []
    # A line that is being written now looks torn, so that readers need no lock.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [Record(number, _parse(line)) for number, line in enumerate(lines, 1)]


def _find_end(handle: int) -> int:
    """Find where the last whole line ends."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size
    return os.pread(handle, size, 0).rfind(b"\n") + 1


def _write(handle: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # 100,000 brackets are no JSON either
        return None
    return value if isinstance(value, dict) else None
