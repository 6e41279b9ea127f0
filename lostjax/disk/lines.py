"""Files of JSON lines, one for a step, that a run appends to and goes back in.

    {"step": 1, ...}

A line that a crash cut short is not read, and is removed when a run goes on, or the
next line would be joined to it. Anything else that is not a JSON object with an integer
`step` is damage, and is said.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lostjax.disk.files import replace_file


class AppendingFile:
    """A file of bytes that is only appended to and never raises for a full disk.

    Failing is said once on standard error, and so is going on. What a full disk keeps
    out stays in memory: for a run some kilobytes a step.

    Args:
        path: The file; made where missing. Its folder exists.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where it is."""
        self._file = path.open("ab", buffering=0)
        self._held = b""
        self._failing = False

    def write(self, data: bytes) -> None:
        """Append `data`, now or when there is room; it has left the program then."""
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        self._held += data
        self.flush()

    def read(self) -> bytes:
        """Give all of the file, what is held back among it."""
        return self.path.read_bytes() + self._held

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes of what `read` gives; needs no room.

        Raises:
            OSError: If the file cannot be cut.
        """
        written = self.path.stat().st_size
        self._held = self._held[: max(0, size - written)]
        if size < written:
            self._file.truncate(size)

    def flush(self) -> None:
        """Try to append what is held back."""
        try:
            while self._held:
                self._held = self._held[self._file.write(self._held) :]
        except OSError as error:
            if not self._failing:
                self._say(f"cannot be written now ({error.strerror}); it is held back")
            self._failing = True
        else:
            if self._failing:
                self._say("is written again, nothing is lost")
            self._failing = False

    def close(self) -> None:
        """Try a last time and let go of the file; twice is harmless."""
        if self._file.closed:
            return
        self.flush()
        if self._held:
            self._say(f"lacks its last {len(self._held)} bytes")
        self._file.close()

    def _say(self, text: str) -> None:
        print(f"{self.path}: {text}", file=sys.stderr)


def reopen_lines(path: Path, resume_step: int) -> AppendingFile:
    """Open a file of JSON lines for appending, as a run that goes on wants it.

    Args:
        path: The file; made where missing.
        resume_step: Lines of later steps are removed, and a torn one.

    Raises:
        ValueError: If another line is not a JSON object with an integer `step`.
    """
    there = path.read_bytes() if path.exists() else b""
    kept = _lines_until(resume_step, there, path)
    if len(kept) != len(there):
        replace_file(path, kept)
    return AppendingFile(path)


def cut_lines(file: AppendingFile, step: int) -> None:
    """Cut the lines of later steps off a file that a run appends to.

    Raises:
        OSError: If it cannot be read or cut.
    """
    file.cut(len(_lines_until(step, file.read(), file.path)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines as it is, with null; no file gives no lines.

    Raises:
        ValueError: If a line, other than a torn last one, is not a JSON object with an
            integer `step`.
    """
    if not path.exists():
        return []
    return [line for _, line in _whole_lines(path.read_bytes(), path)]


def _lines_until(step: int, data: bytes, path: Path) -> bytes:
    return b"".join(r for r, line in _whole_lines(data, path) if line["step"] <= step)


def _whole_lines(data: bytes, path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Give each line as bytes and as parsed, without a last one that is torn."""
    lines = data.splitlines(keepends=True)
    parsed = []
    for number, raw in enumerate(lines, 1):
        line = _parse(raw)
        if line is not None:
            parsed.append((raw, line))
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number}: not a JSON object with an integer 'step'; "
                "remove the line"
            )
    return parsed


def _parse(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):  # torn, even where what there is parses
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # 100,000 brackets are no JSON either
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None
