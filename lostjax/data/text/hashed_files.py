"""Files that are identified by a hash of their bytes.

A text is read more than once: to hash it, to train a tokenizer, to tokenise it. What is
cached under the hash must come from the bytes that were hashed, so that the maker of a
cached result calls `check_unchanged` after it has read the text.
"""

from functools import cached_property
from pathlib import Path

from lostjax.data.cache import hash_file
from lostjax.errors import DataError


class HashedFiles:
    """Files that are read in order; subclasses have the attribute `paths`."""

    paths: tuple[Path, ...]

    @cached_property
    def file_hashes(self) -> tuple[str, ...]:
        """Hash of the bytes of each file, from when this was read first.

        Raises:
          DataError: if a file cannot be read.
        """
        return tuple(map(hash_file, self.paths))

    def check_unchanged(self) -> None:
        """Hash the files again, and compare.

        Raises:
          DataError: if the bytes of a file are not those of `file_hashes` any more.
        """
        for path, known in zip(self.paths, self.file_hashes, strict=True):
            if hash_file(path) != known:
                raise DataError(
                    f"{path}: changed while it was being read; nothing was cached; "
                    "start again when the file is complete"
                )
