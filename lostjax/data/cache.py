"""What is made once and kept: named by content, and there whole or not at all.

A file or directory is made under a temporary name beside its place and renamed when
it is complete, so a process that is killed leaves nothing half-written under the name
that others read, and of two that make the same thing at once one wins.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from lostjax.data.errors import DataError

_BLOCK = 1 << 22
_STALE_SECONDS = 24 * 3600


def default_cache_dir() -> Path:
    """Give `$XDG_CACHE_HOME/lostjax`, which is ~/.cache/lostjax unless set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lostjax"


def hash_parts(*parts: str | bytes) -> str:
    """Hash a sequence of strings, in order (XXH3, 128 bits, 32 hex digits)."""
    digest = xxhash.xxh3_128()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Hash the bytes of a file.

    Raises:
      DataError: where it cannot be read.
    """
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file or directory unless it is there.

    Args:
      path: its place; the name should hold the hash of all that it depends on.
      make: makes it, whole, at the path that it is given.

    Returns:
      `path`, which exists.

    Raises:
      DataError: where it cannot be written.
    """
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with temporary_directory(path.parent) as directory:
            fresh = directory / path.name
            make(fresh)
            _rename(fresh, path)
    except OSError as error:
        raise DataError(
            f"{path.parent}: the cache cannot be written "
            f"({error.strerror}); give another --data.cache_dir"
        ) from error
    return path


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Make `PARENT/.making-...` for a `with` block."""
    directory = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _rename(fresh: Path, path: Path) -> None:
    try:
        os.rename(fresh, path)
    except OSError:
        # Another process may have been faster: what it made is the same.
        if not path.exists():
            raise


def _remove_stale(parent: Path) -> None:
    """Remove what processes that were killed left behind."""
    for left in parent.glob(".making-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
