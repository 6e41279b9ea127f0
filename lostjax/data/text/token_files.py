"""Texts that are already tokenised: .npy arrays of integers, .bin files of uint16.

The tokenizer that produced them must be passed too. Documents end at its end-of-text
token; an array without one is a single document.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lostjax.data.cache import hash_parts
from lostjax.data.stored_tokens import StoredTokens, blocks
from lostjax.data.text.hashed_files import HashedFiles
from lostjax.errors import DataError, first_line

_BLOCK = 1 << 22


@dataclass(frozen=True)
class TokenFiles(HashedFiles):
    """Files of token ids, or the same fraction of each of them."""

    paths: tuple[Path, ...]
    start: float = 0.0
    """Start of the stretch, as a fraction of the file."""
    stop: float = 1.0
    """End of the stretch, as a fraction of the file."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order, and of the stretch."""
        stretch = f"tokens {self.start!r} {self.stop!r}"
        return hash_parts(stretch, *self.file_hashes)

    def documents(self, *, eos_id: int, vocab_size: int) -> Iterator[StoredTokens]:
        """Iterate over the documents, without the end-of-text tokens between them.

        Args:
          eos_id: id of the end-of-text token.
          vocab_size: ids must lie in [0, vocab_size).

        Yields:
          Token ids (N,) of each document in order, N >= 1; `np.asarray` reads them.

        Raises:
          DataError: if a file is not such an array, an id is outside the vocabulary, or
            the file is cut while it is read.
        """
        for path in self.paths:
            whole = open_tokens(path)
            first, last = (round(part * whole.size) for part in (self.start, self.stop))
            tokens = whole[first:last]
            _check_ids(tokens, path=path, first=first, vocab_size=vocab_size)
            begin = 0
            for end in itertools.chain(_find_ends(tokens, eos_id), [tokens.size]):
                if end > begin:
                    yield tokens[begin:end]
                begin = end + 1


def open_tokens(path: Path) -> StoredTokens:
    """Open a file of token ids.

    Args:
      path: a .npy file of a one-dimensional integer array, or a .bin file of
        little-endian uint16.

    Returns:
      Token ids (N,), N >= 1.

    Raises:
      DataError: if the file is anything else, or empty.
    """
    try:
        if path.suffix.lower() == ".bin":
            tokens = _open_bin(path)
        else:
            # NumPy evaluates the header of a .npy file as text, so a broken header can
            # any exception. Pickled objects, which run code, are never loaded. The map
            # is dropped unread: it knows where the array lies in the file.
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except Exception as error:
        reason = first_line(error)
        if "pickle" in reason:  # NumPy then recommends to load the file unsafely
            reason = "it is no .npy file, or one of Python objects"
        raise DataError(f"{path}: not an array: {reason}") from error
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1:
        raise DataError(f"{path}: must hold one array with one axis of token ids")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(f"{path}: token ids must be integers, not {tokens.dtype}")
    if tokens.size == 0:
        raise DataError(f"{path}: empty, holds no tokens")
    offset = tokens.offset if isinstance(tokens, np.memmap) else 0
    return StoredTokens(path, dtype=tokens.dtype, size=tokens.size, offset=offset)


def _open_bin(path: Path) -> NDArray[np.integer]:
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: empty, holds no tokens")
    if size % 2:
        raise DataError(f"{path}: {size} bytes are not a whole number of uint16 ids")
    # Little-endian on every machine: the format has no header to tell.
    return np.memmap(path, dtype="<u2", mode="r")


def _find_ends(tokens: StoredTokens, eos_id: int) -> Iterator[int]:
    """Find the end-of-text tokens blockwise, because a file may exceed the memory."""
    for start, block in blocks(tokens, size=_BLOCK):
        yield from (start + np.flatnonzero(block == eos_id)).tolist()


def _check_ids(
    tokens: StoredTokens, *, path: Path, first: int, vocab_size: int
) -> None:
    for start, block in blocks(tokens, size=_BLOCK):
        bad = np.flatnonzero((block < 0) | (block >= vocab_size))
        if bad.size:
            at = int(bad[0])
            raise DataError(
                f"{path}: token id {int(block[at])} at index {first + start + at} is "
                f"outside the vocabulary of {vocab_size}; pass the tokenizer that "
                "produced it"
            )
