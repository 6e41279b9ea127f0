"""Appending to a file on a disk that may be full for a while.

What cannot be written is kept and comes first the next time: a disk that has room
again gets every byte, in order, and the program never stops for it.
"""

import sys
from pathlib import Path


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
