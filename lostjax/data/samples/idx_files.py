"""The idx format of MNIST and its family: an array of bytes behind a short header.

    0 0 type n        type 8: unsigned bytes; n: number of axes
    n sizes           big-endian, 4 bytes each
    the bytes         row by row

A damaged file raises one line that names it. The format has no checksum: pixels that
changed in a plain file are not seen, in a gzipped one they are.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lostjax.errors import DataError, first_line

UNSIGNED_BYTES = 8
MAX_AXES = 4
MAX_BYTES = 2**30
"""What a header may ask for, so that a damaged one does not fill the memory."""


def read_idx(path: str | Path) -> np.ndarray:
    """Read an array of bytes from an idx file.

    Args:
      path: the file, gzipped if it starts like one, whatever its name is.

    Returns:
      The array, uint8, of 1 to 4 axes, none of them empty.

    Raises:
      DataError: the file cannot be read, is no idx file of bytes, or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as plain:
            gzipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if not gzipped:
                return _read(plain, path)
            with gzip.open(plain) as unpacked:
                return _read(unpacked, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None


def _read(file: io.BufferedIOBase, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{path}: no idx file: starts with {head.hex() or 'nothing'}")
    kind, n_axes = head[2], head[3]
    if kind != UNSIGNED_BYTES or not 1 <= n_axes <= MAX_AXES:
        raise DataError(
            f"{path}: holds type {kind} with {n_axes} axes, must be {UNSIGNED_BYTES} "
            f"(bytes) with 1 to {MAX_AXES}"
        )
    sizes = file.read(4 * n_axes)
    if len(sizes) < 4 * n_axes:
        raise DataError(f"{path}: ends within its header")
    shape = struct.unpack(f">{n_axes}I", sizes)
    expected = math.prod(shape)
    if not 1 <= expected <= MAX_BYTES:
        raise DataError(f"{path}: shape {shape}, must hold 1 to {MAX_BYTES} bytes")
    # One more than must be there: it tells a longer file, and makes gzip check its end.
    found = file.read(expected + 1)
    if len(found) != expected:
        which = "more" if len(found) > expected else f"{len(found)}"
        raise DataError(f"{path}: shape {shape} needs {expected} bytes, holds {which}")
    return np.frombuffer(found, np.uint8).reshape(shape)
