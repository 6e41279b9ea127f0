"""Documents: texts that are read from disk on every pass and identified by a hash.

A text file is one document, and so is each line of a .jsonl file. Nothing stays in
memory between passes. The fingerprint hashes the raw bytes, so that cached results (a
tokenizer, tokens) are found without parsing the text. `check_unchanged` tells whether
what was read is what the fingerprint hashed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path
from typing import Protocol, runtime_checkable

from lostjax.data.cache import hash_parts
from lostjax.data.text.hashed_files import HashedFiles
from lostjax.errors import DataError, first_line

LONGEST_LINE = 2**26
"""Bytes of a line of JSON; parsing takes seven times as much memory."""

_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
}
"""First bytes of compressed files to the command that unpacks them."""


@runtime_checkable
class TextDocuments(Protocol):
    """Documents as strings; iterable repeatedly, always in the same order."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents in order; none is empty."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes if any document or their order changes."""

    def check_unchanged(self) -> None:
        """Raise `DataError` if the fingerprint is not that of the text any more."""


@dataclass(frozen=True)
class TextFiles(HashedFiles):
    """UTF-8 text files with one document each; empty files are skipped."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the texts of the files, in order.

        Raises:
          DataError: if a file is not UTF-8; the message contains the offset of the
            first bad byte.
        """
        for path in self.paths:
            if text := _decode(_read(path), where=str(path)):
                yield text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order; names do not matter."""
        return hash_parts("text", *self.file_hashes)


@dataclass(frozen=True)
class JsonLines(HashedFiles):
    """Files with one JSON object per line, whose `field` is a document."""

    paths: tuple[Path, ...]
    field: str = "text"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents in order; blank lines and empty texts are skipped.

        Raises:
          DataError: if a line is not JSON, lacks the field, or its field is not a
            string; the message contains the line number.
        """
        for path in self.paths:
            with _open(path) as file:
                lines = iter(partial(file.readline, LONGEST_LINE + 1), b"")
                for number, line in enumerate(lines, 1):
                    if len(line) > LONGEST_LINE:
                        raise DataError(
                            f"{path}:{number}: the line has more than "
                            f"{LONGEST_LINE:,} bytes; split the document"
                        )
                    if line.strip() and (text := self._parse(line, path, number)):
                        yield text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order, and of the field."""
        return hash_parts("jsonl", self.field, *self.file_hashes)

    def _parse(self, line: bytes, path: Path, number: int) -> str:
        where = f"{path}:{number}"
        try:
            record = json.loads(_decode(line, where=where))
        # Numbers of 5,000 digits raise ValueError, deep nesting RecursionError.
        except (RecursionError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: not JSON: {first_line(error)}") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}: not a JSON object but {_kind(record)}")
        if self.field not in record:
            names = ", ".join(map(repr, list(record)[:8])) or "none"
            raise DataError(
                f"{where}: no field {self.field!r} (its fields: {names}); "
                f"choose one with {path}#FIELD"
            )
        text = record[self.field]
        if not isinstance(text, str):
            raise DataError(
                f"{where}: field {self.field!r} must be a string, not {_kind(text)}"
            )
        return check_unicode(text, where=where)


@dataclass(frozen=True)
class Chain:
    """Documents of several parts, one part after the other."""

    parts: tuple[TextDocuments, ...]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents of each part, in order."""
        for part in self.parts:
            yield from part

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints; a single part keeps its own."""
        prints = [part.fingerprint for part in self.parts]
        return prints[0] if len(prints) == 1 else hash_parts("chain", *prints)

    def check_unchanged(self) -> None:
        """Check each part."""
        for part in self.parts:
            part.check_unchanged()


@dataclass(frozen=True)
class GivenDocuments:
    """Documents in memory."""

    texts: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents that are not empty."""
        return (text for text in self.texts if text)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents."""
        return hash_parts("given", *self.texts)

    def check_unchanged(self) -> None:
        """Do nothing: documents in memory do not change."""


def check_unicode(text: str, *, where: str) -> str:
    """Return the text unchanged if it can be encoded as UTF-8.

    Args:
      text: the text to check.
      where: location of the text, for the error message.

    Raises:
      DataError: if the text contains half of a surrogate pair, which JSON allows.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} is half of a surrogate pair, "
            "which is not valid text"
        ) from error
    return text


def _decode(data: bytes, *, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte 0x{data[error.start]:02x} at offset "
            f"{error.start}); convert it, for example with iconv -t UTF-8"
        ) from error


def _read(path: Path) -> bytes:
    with _open(path) as file:
        return file.read()


def _open(path: Path) -> BufferedReader:
    try:
        file = path.open("rb")
        start = file.peek(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            file.close()
            raise DataError(f"{path}: compressed; unpack it first with {command}")
    return file


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
