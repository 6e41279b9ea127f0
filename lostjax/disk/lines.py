"""Files of JSON lines, one per step, that a run appends to and truncates on rollback.

    {"step": 1, ...}

Readers ignore a last line that a crash cut short. A resumed run removes it, because the
next line would otherwise be joined to it. Any other line that is not a JSON object with
an integer `step` is damage and raises an error.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from lostjax.disk.files import replace_file
from lostjax.disk.lock import holds_lock


class AppendingFile:
    """An append-only binary file whose writes do not raise if the disk is full.

    On Linux, a file of a run that was deleted while it is open is written anew.

    The first failed write is reported on standard error, and so is the recovery. Data
    that could not be written stays in memory, some kilobytes per step of a run, and is
    retried at each later write.

    Args:
      path: the file; created if missing. Its directory must exist.

    Raises:
      OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """Path of the file."""
        # Unbuffered: each line reaches the kernel at once, and a failed write leaves no
        # hidden bytes that a later close would retry.
        self._file = path.open("ab", buffering=0)
        self._held = b""
        self._failing = False

    def write(self, data: bytes) -> None:
        """Append `data` now, or keep it in memory until the disk accepts it.

        After a successful write the data is with the operating system and survives a
        crash of the program.

        Raises:
          ValueError: if the file is closed.
        """
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        self._held += data
        self.flush()

    def read(self) -> bytes:
        """Return all bytes of the file, including those still held in memory."""
        return self.path.read_bytes() + self._held

    def cut(self, size: int) -> None:
        """Truncate to the first `size` bytes of `read()`; needs no disk space.

        Raises:
          OSError: if the file cannot be truncated.
        """
        written = self.path.stat().st_size
        self._held = self._held[: max(0, size - written)]
        if size < written:
            self._file.truncate(size)

    def flush(self) -> None:
        """Try to write the bytes held in memory."""
        try:
            self._remake()
            while self._held:
                # A nearly full disk accepts a part of the bytes: keep only what is
                # left.
                self._held = self._held[self._file.write(self._held) :]
        except OSError as error:
            # The mark comes first: what is said may be a line of this very file.
            was_failing, self._failing = self._failing, True
            if not was_failing:
                self._say(f"write failed ({error.strerror}); data is kept in memory")
        else:
            was_failing, self._failing = self._failing, False
            if was_failing:
                self._say("write succeeded again, no data was lost")

    def close(self) -> None:
        """Flush a last time and close the file; a second call has no effect."""
        if self._file.closed:
            return
        self.flush()
        if self._held:
            self._say(f"closed without its last {len(self._held)} bytes")
        self._file.close()

    def _remake(self) -> None:
        """Write the file anew if its name is gone from the directory of a run.

        Somebody deleted or renamed the directory, and the run has made it again. A
        directory that is not locked by this process is another run's.

        Raises:
          OSError: if the file cannot be written.
        """
        if os.path.lexists(self.path):
            return
        folder = self.path.parent
        if not (
            os.path.isdir(folder) and any(map(holds_lock, (folder, folder.parent)))
        ):
            return
        # The kernel keeps the content while the file is open.
        kept = Path(f"/proc/self/fd/{self._file.fileno()}")
        if kept.exists():
            replace_file(self.path, kept.read_bytes())
            self._file.close()
            self._file = AppendingFile(self.path)._file

    def _say(self, text: str) -> None:
        print(f"{self.path}: {text}", file=sys.stderr)


def reopen_lines(path: Path, resume_step: int) -> AppendingFile:
    """Open a file of JSON lines for appending, as a resumed run needs it.

    Lines of later steps than `resume_step` and a torn last line are removed first.

    Args:
      path: the file; created if missing.
      resume_step: last step whose line is kept.

    Returns:
      The file, positioned at its end.

    Raises:
      ValueError: if any other line is not a JSON object with an integer `step`.
    """
    there = path.read_bytes() if path.exists() else b""
    kept = _lines_until(resume_step, there, path)
    if len(kept) != len(there):
        replace_file(path, kept)
    return AppendingFile(path)


def cut_lines(file: AppendingFile, step: int) -> None:
    """Remove the lines of steps after `step` from a file that a run is appending to.

    Raises:
      OSError: if the file cannot be read or truncated.
    """
    file.cut(len(_lines_until(step, file.read(), file.path)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; JSON null is returned as None.

    Returns:
      The lines in order, without a torn last one; empty if there is no file.

    Raises:
      ValueError: if a line other than a torn last one is not a JSON object with an
        integer `step`.
    """
    if not path.exists():
        return []
    return [line for _, line in _whole_lines(path.read_bytes(), path)]


def _lines_until(step: int, data: bytes, path: Path) -> bytes:
    return b"".join(r for r, line in _whole_lines(data, path) if line["step"] <= step)


def _whole_lines(data: bytes, path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each line as raw bytes and as parsed JSON, without a torn last line."""
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
    if not raw.endswith(b"\n"):  # torn, even if the part that was written parses
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # deep nesting raises RecursionError
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None
