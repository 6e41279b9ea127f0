"""A cache of files and directories that are named by a hash of what they depend on.

An entry is built under a temporary name beside its final path, synced to the disk and
renamed when it is complete. A process that is killed therefore never leaves a partial
entry under the final name, and if two processes build the same entry at once, one of
them wins.

`NAME.hash` beside an entry holds the hash of its bytes. Every opening reads and hashes
all of them; an entry that was damaged by the disk or a power cut is rebuilt, never
used.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from lostjax.errors import DataError

_BLOCK = 1 << 22
_STALE_SECONDS = 24 * 3600


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/lostjax`, by default ~/.cache/lostjax."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lostjax"


def hash_parts(*parts: str | bytes) -> str:
    """Hash a sequence of strings, in order (XXH3, 128 bits, 32 hex digits)."""
    digest = xxhash.xxh3_128()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        # The length separates parts: ("ab", "c") and ("a", "bc") get different hashes.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Hash the bytes of a file (XXH3, 128 bits, 32 hex digits).

    Raises:
      DataError: if the file cannot be read.
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
    """Return a cached file or directory; build it if it is missing or damaged.

    An entry that is damaged or has no hash file is rebuilt, with a message on standard
    error.

    Args:
      path: path of the entry; its name should contain a hash of everything that the
        content depends on.
      make: function that builds the complete entry at the path that it receives.

    Returns:
      `path`, which exists.

    Raises:
      DataError: if the cache cannot be written.
    """
    if _is_whole(path):
        return path
    if path.exists():
        print(
            f"{path}: is damaged or has no hash file; rebuilding it",
            file=sys.stderr,
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with temporary_directory(path.parent) as directory:
            fresh = directory / path.name
            make(fresh)
            _put(fresh, path)
    except OSError as error:
        raise DataError(
            f"{path.parent}: the cache cannot be written "
            f"({error.strerror}); choose another --data.cache-dir"
        ) from error
    return path


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Create `PARENT/.making-...` for the duration of a `with` block.

    Args:
      parent: existing directory.

    Yields:
      The path of the new directory, which is removed at the end of the block.
    """
    directory = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            # The lock marks the directory as in use: `_remove_stale` of other processes
            # spares it.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(handle)


def _is_whole(path: Path) -> bool:
    try:
        return _hash_of(path).read_text() == _hash_tree(path)
    except (OSError, ValueError, DataError):
        return False


def _hash_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.hash")


def _hash_tree(path: Path) -> str:
    """Hash a file, or the names and contents of all files of a directory."""
    if not path.is_dir():
        return hash_file(path)
    names = sorted(part.relative_to(path).as_posix() for part in path.rglob("*"))
    files = [name for name in names if (path / name).is_file()]
    return hash_parts(
        *(text for name in files for text in (name, hash_file(path / name)))
    )


def _put(fresh: Path, path: Path) -> None:
    """Move a finished entry and its hash to their final paths."""
    aside = fresh.parent / "aside"
    aside.mkdir()
    seal = aside / "hash"
    seal.write_text(_hash_tree(fresh))
    for part in (fresh.parent, *fresh.parent.rglob("*")):
        _sync(part)
    # The hash first: an entry without its hash would count as damaged. All bytes are
    # synced before either rename, so no name refers to data that is not on the disk.
    os.replace(seal, _hash_of(path))
    try:
        os.rename(fresh, path)
    except OSError:
        # A directory exists already: another process was faster, or it is damaged.
        if not path.exists():
            raise
        if _is_whole(path):
            return
        # Rename instead of deleting: processes that have it open can go on reading.
        os.rename(path, aside / "damaged")
        os.rename(fresh, path)
    # Sync the directory too: a rename is durable only with its directory entry.
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(parent: Path) -> None:
    """Remove temporary directories that killed processes left behind."""
    for left in parent.glob(".making-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                _remove_unless_in_use(left)


def _remove_unless_in_use(left: Path) -> None:
    """Remove a temporary directory unless its maker is alive, which its lock tells.

    The age alone does not suffice, because the clock may have been set.
    """
    handle = os.open(left, os.O_RDONLY)
    try:
        # Raises OSError, which the caller ignores, if the maker still holds its shared
        # lock.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(handle)
