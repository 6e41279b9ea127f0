"""Documents: text that is read again on every pass, and known by a hash of its bytes.

A text file is one document; so is a line of a .jsonl file. Nothing is held in memory
between passes. The fingerprint is that of the raw bytes, so that what was made of a
text once (a tokenizer, tokens) is found again without parsing it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Protocol, runtime_checkable

from lostjax.data.cache import hash_file, hash_parts
from lostjax.errors import DataError, first_line


@runtime_checkable
class TextDocuments(Protocol):
    """Documents as strings, iterable any number of times, in one order."""

    def __iter__(self) -> Iterator[str]:
        """Give the documents in order, none of them empty."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes when any document or their order does."""


@dataclass(frozen=True)
class TextFiles:
    """UTF-8 text files, each one document; empty files are passed over."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        """Read the files in order.

        Raises:
          DataError: a file that is not UTF-8, with the offset of the first bad byte.
        """
        for path in self.paths:
            if text := _decode(_read(path), where=str(path)):
                yield text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order; names do not count."""
        return hash_parts("text", *map(hash_file, self.paths))


@dataclass(frozen=True)
class JsonLines:
    """Files with a JSON object a line, whose `field` is a document."""

    paths: tuple[Path, ...]
    field: str = "text"

    def __iter__(self) -> Iterator[str]:
        """Read the documents in order; blank lines and empty texts are passed over.

        Raises:
          DataError: bad JSON, no such field, a field that is no string; with the line.
        """
        for path in self.paths:
            with _open(path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip() and (text := self._parse(line, path, number)):
                        yield text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order, and of the field."""
        return hash_parts("jsonl", self.field, *map(hash_file, self.paths))

    def _parse(self, line: bytes, path: Path, number: int) -> str:
        where = f"{path}:{number}"
        try:
            record = json.loads(_decode(line, where=where))
        # A number of 5,000 digits or 100,000 brackets are bad JSON as well.
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
    """Documents of several places, one after the other."""

    parts: tuple[TextDocuments, ...]

    def __iter__(self) -> Iterator[str]:
        """Give the documents of each part in order."""
        for part in self.parts:
            yield from part

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints; that of the only part, if it is one."""
        prints = [part.fingerprint for part in self.parts]
        return prints[0] if len(prints) == 1 else hash_parts("chain", *prints)


@dataclass(frozen=True)
class GivenDocuments:
    """Documents that are in memory."""

    texts: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        """Give the documents that are not empty."""
        return (text for text in self.texts if text)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents."""
        return hash_parts("given", *self.texts)


def check_unicode(text: str, *, where: str) -> str:
    """Give a text back if it can be written as UTF-8.

    Raises:
      DataError: where it holds half of a surrogate pair, as JSON can.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} is half of a surrogate pair, "
            "which is no text"
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
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
