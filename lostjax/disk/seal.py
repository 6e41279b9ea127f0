"""Files that a hash vouches for: JSON with a hash inside, others with one beside them.

    {
      "steps": 600,
      "hash": "f1b5aa8b8a0bd0c3a9d22cb2b0bd4eb1"
    }

The hash of a JSON file is its last field, XXH3 with 128 bits of the text before it: one
file, so that no crash can part the hash from what it vouches for. A file of another
format has its hash beside it, in `NAME.hash`. Hashes find any changed, cut or missing
byte, also one that an editor changed; they do not find a deliberate forgery.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from lostjax.disk.files import replace_file

HASH = "hash"
"""Name of the field that holds the hash."""

LARGEST = 2**24
"""Bytes that a sealed file has at most, unless its reader says otherwise."""

_MOST_DAMAGED = 4


class SealError(ValueError):
    """A file that is damaged; the message is a clause: `is damaged`."""


class Sealed(NamedTuple):
    """The content of a file."""

    values: Any
    """Without the hash."""
    is_sealed: bool
    """False if the file has no hash, as files of earlier versions."""


def seal_format(field: str = HASH, *, indent: int = 2) -> str:
    """Return the end of a sealed file, as a format of the hash."""
    return f',\n{" " * indent}"{field}": "{{}}"\n}}}}\n'


def digest(data: bytes) -> str:
    """Hash bytes: XXH3, 128 bits, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def seal(values: Mapping[str, Any]) -> bytes:
    """Format a JSON object as a sealed file.

    Args:
      values: at least one value; none is called `hash`.

    Returns:
      The bytes of the file.
    """
    # The closing brace is cut off and returns with the hash, which covers the text
    # before it.
    body = json.dumps(values, indent=2).removesuffix("\n}")
    return (body + seal_format().format(digest(body.encode()))).encode()


def unseal(raw: bytes) -> Sealed:
    """Parse a file of one JSON object, and check its hash if it has one.

    Raises:
      SealError: if the hash is not that of the text, or the text is no JSON.
    """
    try:
        values = json.loads(raw, object_pairs_hook=_refuse_repeated)
    except SealError:
        raise
    # A number of 5,000 digits raises ValueError, 100,000 brackets RecursionError.
    except (ValueError, RecursionError):
        raise SealError("is damaged: it is not JSON") from None
    if not isinstance(values, dict) or HASH not in values:
        return Sealed(values, is_sealed=False)
    if not _fits(raw):
        raise SealError("is damaged or was edited: its hash does not fit")
    del values[HASH]
    return Sealed(values, is_sealed=True)


def read_sealed(path: Path, *, largest: int = LARGEST) -> Sealed:
    """Read a file that `seal` formatted; see `unseal`.

    Args:
      path: the file.
      largest: bytes that a good file has at most.

    Raises:
      OSError: if the file is missing or cannot be read.
      SealError: if it is damaged, no regular file, or too large.
    """
    return unseal(read_regular(path, largest=largest))


def read_regular(path: Path, *, largest: int) -> bytes:
    """Read a file that is regular and not too large.

    Raises:
      OSError: if the file is missing or cannot be read.
      SealError: if it is no regular file, or too large.
    """
    # Before it is opened: a pipe would wait, and a device may never end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise SealError("is not a regular file")
    with path.open("rb") as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        raise SealError(f"is larger than {largest:,} bytes")
    return raw


def was_sealed_as(raw: bytes, values: Mapping[str, Any]) -> bool:
    """Return whether a damaged file can only have been that of these values.

    Its hash must be theirs, except for a few bytes if nothing else is damaged. A text
    that was edited has the hash of another one, and shares two of its digits.
    """
    made, tail = seal(values), len(seal_format().format(digest(b"")))
    if raw[-tail:] == made[-tail:]:
        return True
    apart = sum(one != two for one, two in zip(raw, made, strict=False))
    return len(raw) == len(made) and apart <= _MOST_DAMAGED


def hash_file_of(path: Path) -> Path:
    """Return the file that holds the hash of a file of any format."""
    return path.with_name(f"{path.name}.{HASH}")


def write_with_hash(path: Path, content: bytes) -> None:
    """Write a file of any format, and its hash beside it.

    Raises:
      OSError: if a file cannot be written.
    """
    # The old hash goes first: a kill in between leaves a file without a hash, and never
    # one with the hash of another.
    hash_file_of(path).unlink(missing_ok=True)
    replace_file(path, content)
    replace_file(hash_file_of(path), digest(content).encode())


def fits_hash_beside(path: Path) -> bool | None:
    """Return whether a file fits the hash beside it; None if there is none.

    Raises:
      OSError: if a file cannot be read.
    """
    content = path.read_bytes()
    try:
        return hash_file_of(path).read_bytes() == digest(content).encode()
    except FileNotFoundError:
        return None


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; JSON would silently take the last of two equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SealError(f"has {twice!r} twice")
    return values


def _fits(raw: bytes) -> bool:
    tail = len(seal_format().format(digest(b"")))
    return raw[-tail:] == seal_format().format(digest(raw[:-tail])).encode()
