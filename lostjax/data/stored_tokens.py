"""Token ids in a file, read when they are asked for.

A memory map would be as quick, but a file that is cut while it is mapped ends the
process with SIGBUS, without a word. Reading the file itself raises an error instead, at
a few microseconds a row; the page cache shares the bytes between processes as before.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lostjax.errors import DataError


class StoredTokens:
    """A stretch of a file of integers; `np.asarray` reads it.

    The file stays open, so that one that is deleted or replaced can be read to its end.

    Attributes:
      dtype: type of the integers in the file.
      size: number of integers in the stretch.
    """

    def __init__(
        self, path: Path, *, dtype: np.dtype[np.integer], size: int, offset: int = 0
    ) -> None:
        """Open a file.

        Args:
          path: the file.
          dtype: type of the integers.
          size: their number.
          offset: bytes before the first one.

        Raises:
          DataError: if the file cannot be opened.
        """
        self.dtype = dtype
        self.size = size
        self._path, self._offset = path, offset
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        """Return the number of integers."""
        return self.size

    def __getitem__(self, part: slice) -> "StoredTokens":
        """Return a stretch of this one, of the same open file; nothing is read."""
        start, stop, step = part.indices(self.size)
        assert step == 1
        made = object.__new__(StoredTokens)
        made.__dict__ |= self.__dict__
        made.size = max(stop - start, 0)
        made._offset = self._offset + start * self.dtype.itemsize
        return made

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """Read the stretch into memory.

        Raises:
          DataError: if the file is shorter than it was, or cannot be read.
        """
        tokens = np.empty(self.size, self.dtype)
        room, done = tokens.view(np.uint8), 0
        try:
            while done < room.size:  # one call reads 2 GB at most
                read = os.preadv(
                    self._file.fileno(), [room[done:].data], self._offset + done
                )
                if not read:
                    raise DataError(f"{self._path}: was cut while it was being read")
                done += read
        except OSError as error:
            raise DataError(
                f"{self._path}: cannot be read: {error.strerror}"
            ) from error
        return tokens if dtype is None else tokens.astype(dtype, copy=False)


def blocks(
    tokens: StoredTokens, *, size: int
) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """Read a stretch in blocks; yields the index of the first integer, and a block."""
    for start in range(0, tokens.size, size):
        yield start, np.asarray(tokens[start : start + size])
