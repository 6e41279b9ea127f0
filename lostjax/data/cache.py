"""What is made once and kept: named by content, and there whole or not at all.

A file or directory is made under a temporary name beside its place, forced to the
disk, and renamed when it is complete, so a process that is killed leaves nothing
half-written under the name that others read, and of two that make the same thing at
once one wins.

`NAME.hash` beside it holds the hash of its bytes. They are read whole whenever it is
opened: what a disk or a power cut changed since is made again, and never used.
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
    """Make a file or directory unless it is there, with the bytes that it was made of.

    One that is damaged, or has no hash beside it, is made again and that is said.

    Args:
      path: its place; the name should hold the hash of all that it depends on.
      make: makes it, whole, at the path that it is given.

    Returns:
      `path`, which exists.

    Raises:
      DataError: where it cannot be written.
    """
    if _is_whole(path):
        return path
    if path.exists():
        print(
            f"{path}: is not as it was written, or has no hash; it is made again",
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
            f"({error.strerror}); give another --data.cache_dir"
        ) from error
    return path


@contextlib.contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Make `PARENT/.making-...` for a `with` block."""
    directory = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
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
    """Hash a file, or the names and files of a directory."""
    if not path.is_dir():
        return hash_file(path)
    names = sorted(part.relative_to(path).as_posix() for part in path.rglob("*"))
    files = [name for name in names if (path / name).is_file()]
    return hash_parts(
        *(text for name in files for text in (name, hash_file(path / name)))
    )


def _put(fresh: Path, path: Path) -> None:
    """Let what was made take its place, and its hash the place beside it."""
    aside = fresh.parent / "aside"
    aside.mkdir()
    seal = aside / "hash"
    seal.write_text(_hash_tree(fresh))
    for part in (fresh.parent, *fresh.parent.rglob("*")):
        _sync(part)
    os.replace(seal, _hash_of(path))
    try:
        os.rename(fresh, path)
    except OSError:
        # A directory is there: another process was faster, or it is a damaged one.
        if not path.exists():
            raise
        if _is_whole(path):
            return
        os.rename(path, aside / "damaged")  # who reads it keeps it until it is closed
        os.rename(fresh, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_stale(parent: Path) -> None:
    """Remove what processes that were killed left behind."""
    for left in parent.glob(".making-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                _remove_unless_in_use(left)


def _remove_unless_in_use(left: Path) -> None:
    """Ask the kernel whether the maker lives: the clock may have been set."""
    handle = os.open(left, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(handle)
