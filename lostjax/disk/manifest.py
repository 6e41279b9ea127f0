"""What a directory held when it was written: sizes and hashes of every file, in one.

`manifest.json` lists each file under a directory with its size and the hash of every
piece of 16 MiB, and ends in the hash of its own text. Any changed, cut or missing byte
is found, in the manifest too. The hash is XXH3 of 128 bits: it finds accidents (an
unlucky one goes unseen once in 2^128) and does not stop somebody who forges both.

Pieces are read and hashed by several threads, a large file by all of them.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import xxhash

from lostjax.disk.files import replace_file

MANIFEST = "manifest.json"
"""The manifest's name in the directory that it describes."""

PIECE_BYTES = 1 << 24
_BUFFER_BYTES = 1 << 18  # stays in a core's cache between reading and hashing
_SEAL = ',\n "manifest": "{}"\n}}\n'
_DIGEST = re.compile("[0-9a-f]{32}")


class FileEntry(NamedTuple):
    """What a manifest says of one file."""

    size: int
    """Bytes."""
    pieces: tuple[str, ...]
    """Hash of each piece of `PIECE_BYTES`, as 32 hex digits; the last one is short."""


class ManifestError(ValueError):
    """A manifest that is not as it was written; the message says so in a clause."""


def write_manifest(directory: Path) -> None:
    """Hash all files under a directory, force them to the disk, and write it down.

    The manifest is written last and in one step: where it is, all it lists was there
    before, even across a power cut.

    Args:
      directory: of a finished checkpoint, that nobody writes to any more.

    Raises:
      OSError: where a file cannot be read or the manifest not be written.
    """
    sizes = {
        path: path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }
    jobs = [(path, start) for path, size in sizes.items() for start in _starts(size)]
    digests = iter(_in_threads(_hash_piece, jobs))
    entries = {
        path.relative_to(directory).as_posix(): FileEntry(
            size, tuple(next(digests) for _ in _starts(size))
        )
        for path, size in sizes.items()
    }
    for path in (directory, *directory.rglob("*")):
        sync(path)
    replace_file(directory / MANIFEST, _text(entries).encode())
    sync(directory)


def read_manifest(directory: Path) -> dict[str, FileEntry]:
    """Read a manifest and check that it is as it was written.

    Returns:
      Entries by path, relative and with slashes.

    Raises:
      ManifestError: where it is missing, cannot be read or was changed.
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else _why(error)
        raise ManifestError(f"{MANIFEST} {reason}") from None
    tail = len(_SEAL.format(_digest(b"")))
    if raw[-tail:] != _SEAL.format(_digest(raw[:-tail])).encode():
        raise ManifestError(f"{MANIFEST} is damaged")
    try:
        return _parse(json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Whole but not ours: a later version's, or made by hand.
        raise ManifestError(f"{MANIFEST} is of no known format") from None


def find_damage(directory: Path, *, items: Sequence[str] = ()) -> list[str]:
    """Compare a directory with its manifest.

    Args:
      directory: that holds a manifest.
      items: check only the files in these subdirectories; default all.

    Returns:
      A clause for each file that is not as it was written, such as `model/d/0: bytes
      0 to 16777216 differ`; none where all is whole. Files that the manifest does not
      list are not looked at.
    """
    try:
        entries = read_manifest(directory)
    except ManifestError as error:
        return [str(error)]
    if items:
        entries = {k: v for k, v in entries.items() if k.split("/")[0] in items}
    damage = {k: _check_size(directory / k, v.size) for k, v in entries.items()}
    jobs = [
        (directory / name, start, digest)
        for name, entry in entries.items()
        if not damage[name]
        for start, digest in zip(_starts(entry.size), entry.pieces, strict=True)
    ]
    found = zip(jobs, _in_threads(_check_piece, jobs), strict=True)
    for (path, *_), clause in found:
        name = path.relative_to(directory).as_posix()
        damage[name] = damage[name] or clause
    return [f"{name}: {clause}" for name, clause in damage.items() if clause]


def sync(path: Path) -> None:
    """Force a file or a directory to the disk, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(entries: Mapping[str, FileEntry]) -> str:
    content = {"format": 1, "piece_bytes": PIECE_BYTES, "files": entries}
    body = json.dumps(content, indent=1).removesuffix("\n}")
    return body + _SEAL.format(_digest(body.encode()))


def _parse(values: object) -> dict[str, FileEntry]:
    """Read the entries strictly; any exception says that they are not ours."""
    if not isinstance(values, dict) or values["format"] != 1:
        raise ValueError
    if values["piece_bytes"] != PIECE_BYTES:
        raise ValueError
    entries = {}
    for name, (size, pieces) in values["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise ValueError
        if not name.isprintable():  # no NUL, half a character, or second line
            raise ValueError
        if type(size) is not int or not 0 <= size < 2**63:
            raise ValueError
        if len(pieces) != len(_starts(size)):
            raise ValueError
        if not all(_DIGEST.fullmatch(piece) for piece in pieces):
            raise ValueError
        entries[name] = FileEntry(size, tuple(pieces))
    return entries


def _starts(size: int) -> range:
    """Give where the pieces of a file begin; an empty file has none."""
    return range(0, size, PIECE_BYTES)


def _check_size(path: Path, size: int) -> str:
    try:
        there = path.stat().st_size
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else _why(error)
    return "" if there == size else f"has {there} of {size} bytes"


def _check_piece(path: Path, start: int, digest: str) -> str:
    try:
        if _hash_piece(path, start) == digest:
            return ""
        size = path.stat().st_size
    except OSError as error:
        return _why(error)
    return f"bytes {start} to {min(start + PIECE_BYTES, size)} differ"


def _hash_piece(path: Path, start: int) -> str:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = PIECE_BYTES
        while left and (count := file.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def _in_threads(work: Callable[..., str], jobs: Iterable[tuple[Any, ...]]) -> list[str]:
    """Do jobs in order in a few threads: reading and hashing free Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda job: work(*job), jobs))


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)
