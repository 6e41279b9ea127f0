"""Manifests: sizes and hashes of all files in a directory, in one file.

`manifest.json` lists the size of each file under a directory and a hash of each of its
pieces of 16 MiB. It ends with a hash of its own text. Verification finds any changed,
truncated or missing byte, in the manifest as well. The hash is XXH3 with 128 bits: it
detects accidental damage (one in 2^128 goes unnoticed) but not deliberate forgery.

Several threads read and hash pieces in parallel, also those of a single large file.
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
from lostjax.disk.seal import digest as _digest
from lostjax.disk.seal import seal_format

MANIFEST = "manifest.json"
"""Name of the manifest in the directory that it describes."""

PIECE_BYTES = 1 << 24
_BUFFER_BYTES = 1 << 18  # stays in a core's cache between reading and hashing
_SEAL = seal_format("manifest", indent=1)
_DIGEST = re.compile("[0-9a-f]{32}")


class FileEntry(NamedTuple):
    """The manifest's entry for one file."""

    size: int
    """Size in bytes."""
    pieces: tuple[str, ...]
    """Hash of each piece of `PIECE_BYTES`, 32 hex digits; the last may be shorter."""


class ManifestError(ValueError):
    """A missing, damaged or unknown manifest; the message is a clause: `is damaged`."""


def write_manifest(directory: Path) -> None:
    """Hash all files under a directory, sync them to the disk, and write the manifest.

    The manifest is written last and atomically. If it exists, all files that it lists
    were on the disk before it, even across a power cut.

    Args:
      directory: a finished checkpoint that no process writes to any more.

    Raises:
      OSError: if a file cannot be read or the manifest cannot be written.
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
    # Sync data and directory entries before the manifest exists: a manifest must never
    # outlive the files that it lists.
    for path in (directory, *directory.rglob("*")):
        sync(path)
    replace_file(directory / MANIFEST, _text(entries).encode())
    sync(directory)


def read_manifest(directory: Path) -> dict[str, FileEntry]:
    """Read a manifest and verify its own hash.

    Args:
      directory: the directory that the manifest describes.

    Returns:
      Entries by relative path with slashes.

    Raises:
      ManifestError: if the manifest is missing, unreadable, damaged or of an unknown
        format.
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
        # Undamaged but of another format: a later version's, or written by hand.
        raise ManifestError(f"{MANIFEST} has an unknown format") from None


def find_damage(directory: Path, *, items: Sequence[str] = ()) -> list[str]:
    """Compare the files of a directory with its manifest.

    Args:
      directory: a directory that contains a manifest.
      items: names of subdirectories to check; all files if empty.

    Returns:
      One line for each damaged file, such as `model/d/0: bytes 0 to 16777216 differ`;
      an empty list if nothing is damaged. Files that the manifest does not list are
      ignored.
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
    """Flush a file or a directory to the disk, if the file system supports it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(entries: Mapping[str, FileEntry]) -> str:
    content = {"format": 1, "piece_bytes": PIECE_BYTES, "files": entries}
    # The closing brace is cut off and returns with the seal, which hashes the text
    # before it.
    body = json.dumps(content, indent=1).removesuffix("\n}")
    return body + _SEAL.format(_digest(body.encode()))


def _parse(values: object) -> dict[str, FileEntry]:
    """Read the entries strictly; raise an exception if the format is not ours."""
    if not isinstance(values, dict) or values["format"] != 1:
        raise ValueError
    if values["piece_bytes"] != PIECE_BYTES:
        raise ValueError
    entries = {}
    for name, (size, pieces) in values["files"].items():
        path = PurePosixPath(name)
        # A manifest is untrusted input: reject names that point outside the directory.
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise ValueError
        # Names appear in messages: no NUL, lone surrogate or line break.
        if not name.isprintable():
            raise ValueError
        # `type` and not isinstance: True is an int to Python.
        if type(size) is not int or not 0 <= size < 2**63:
            raise ValueError
        if len(pieces) != len(_starts(size)):
            raise ValueError
        if not all(_DIGEST.fullmatch(piece) for piece in pieces):
            raise ValueError
        entries[name] = FileEntry(size, tuple(pieces))
    return entries


def _starts(size: int) -> range:
    """Return the offsets at which the pieces of a file begin."""
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
    # Unbuffered: readinto fills our own buffer without a second copy.
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = PIECE_BYTES
        while left and (count := file.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def _in_threads(work: Callable[..., str], jobs: Iterable[tuple[Any, ...]]) -> list[str]:
    """Run jobs in a few threads and return results in order of the jobs.

    Threads suffice because reading and hashing release Python's global lock.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda job: work(*job), jobs))


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
