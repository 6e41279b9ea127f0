"""Files of JSON lines, one per step, that a run appends to and truncates on rollback.

    {"step": 1, ..., "hash": "..."}

Every line is an object of numbers with an integer `step`, chained to the lines before
it (`lostjax.disk.chain`). Readers ignore a last line that a crash cut short. A resumed
run removes it, because the next line would otherwise be joined to it. Any other line
that is not what was written is damage.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lostjax.disk.chain import (
    DamagedLines,
    Line,
    chain_line,
    chain_lines,
    describe_damage,
    read_chain,
)
from lostjax.disk.files import keep_aside, replace_file
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
        # Not followed if it is a link: a crafted directory could lead what is appended
        # to any file of the user.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
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

    def was_changed(self) -> bool:
        """Return whether somebody else cut the file, or wrote to it."""
        return os.fstat(self._file.fileno()).st_size != self._size

    def is_waiting(self) -> bool:
        """Return whether data waits in memory for the disk."""
        return bool(self._held)

    def cut(self, size: int) -> None:
        """Truncate to the first `size` bytes of `read()`; needs no disk space.

        Raises:
          OSError: if the file cannot be truncated.
        """
        written = self.path.stat().st_size
        self._held = self._held[: max(0, size - written)]
        if size < written:
            self._file.truncate(size)
            self._size = size

    def flush(self) -> None:
        """Try to write the bytes held in memory."""
        try:
            self._remake()
            while self._held:
                # A nearly full disk accepts a part of the bytes: keep only what is
                # left.
                written = self._file.write(self._held)
                self._size += written
                self._held = self._held[written:]
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
        if not any(map(holds_lock, (folder, folder.parent))):
            return
        folder.mkdir(exist_ok=True)
        # The kernel keeps the content while the file is open.
        kept = Path(f"/proc/self/fd/{self._file.fileno()}")
        if kept.exists():
            replace_file(self.path, kept.read_bytes())
            self._file.close()
            self._file = AppendingFile(self.path)._file
            self._size = os.fstat(self._file.fileno()).st_size

    def _say(self, text: str) -> None:
        print(f"{self.path}: {text}", file=sys.stderr)


class LinesFile:
    """A file of chained lines that a run appends to, and truncates when it rolls back.

    Opening it removes a torn last line and the lines of later steps than
    `resume_step`. If other lines are damaged, one line on standard error names them;
    the file is kept as `NAME.damaged`, and goes on without them.

    Args:
      path: the file; created if missing. Its directory must exist.
      resume_step: last step whose line is kept.

    Raises:
      OSError: if the file cannot be read or written.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        there = path.read_bytes() if path.exists() else b""
        lines = _lines_until(resume_step, read_chain(there))
        rows = [line.values for line in lines if line.values is not None]
        kept = b"".join(line.raw for line in lines)
        if damage := describe_damage(lines):
            aside = keep_aside(path)
            print(
                f"{path}: {damage}; the file is kept as {aside.name}, and the run goes "
                "on with the other lines",
                file=sys.stderr,
            )
            kept = chain_lines(rows)
            lines = read_chain(kept)
        # A file with a second name, as of `cp --link`, is parted from it: lines are
        # appended to the run's file alone.
        if kept != there or (there and path.stat().st_nlink > 1):
            replace_file(path, kept)
        self.path = path
        """Path of the file."""
        self.last: Mapping[str, Any] = rows[-1] if rows else {"step": 0}
        """Values of the last line; its step is 0 if there is no line."""
        self._link = _last_link(lines)
        self._file = AppendingFile(path)

    def append(self, values: Mapping[str, Any]) -> None:
        """Append a line; it waits in memory while the disk is full.

        Args:
          values: what JSON can hold, without NaN; `step` is larger than the last one.
        """
        if self._file.was_changed() and not self._file.is_waiting():
            self._mend()
        line, self._link = chain_line(values, self._link)
        self._file.write(line)
        self.last = values

    def _mend(self) -> None:
        """Go on with what is left of a file that somebody cut or wrote to."""
        before = self.last["step"]
        try:
            mended = LinesFile(self.path, resume_step=before)
        except OSError:  # as on a full disk: the next line tries again
            return
        print(
            f"{self.path}: was changed while the run was writing it; the line before "
            f"step {before + 1} is now that of step {mended.last['step']}",
            file=sys.stderr,
        )
        self._file.close()
        self.last, self._link, self._file = mended.last, mended._link, mended._file

    def go_back(self, step: int) -> None:
        """Remove the lines of later steps; needs no disk space.

        Raises:
          OSError: if the file cannot be read or truncated.
        """
        lines = _lines_until(step, read_chain(self._file.read()))
        self._file.cut(sum(len(line.raw) for line in lines))
        rows = [line.values for line in lines if line.values is not None]
        self.last = rows[-1] if rows else {"step": 0}
        self._link = _last_link(lines)

    def close(self) -> None:
        """Flush a last time and close the file; a second call has no effect."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of lines; JSON null is returned as None.

    Returns:
      The lines in order, without hashes and a torn last one; empty if there is no file.

    Raises:
      DamagedLines: if a line is damaged; the error carries the others.
    """
    if not path.exists():
        return []
    lines = read_chain(path.read_bytes())
    whole = [line.values for line in lines if line.values is not None]
    if damage := describe_damage(lines):
        raise DamagedLines(f"{path}: {damage}", whole)
    return whole


def _lines_until(step: int, lines: list[Line]) -> list[Line]:
    """Take the lines before the first whole one of a later step, or of all steps.

    Damaged lines after the line of `step` are of later steps.
    """
    taken: list[Line] = []
    for line in lines:
        if line.values is not None and line.values["step"] > step:
            break
        taken.append(line)
    whole = [line.values["step"] for line in taken if line.values is not None]
    if not whole or whole[-1] >= step:
        while taken and taken[-1].values is None and (whole or step == 0):
            taken.pop()
    return taken


def _last_link(lines: list[Line]) -> str:
    return lines[-1].link if lines else ""
