"""Documents: texts that are read from disk on every pass and identified by a hash.

A text file is one document, and so is each line of a .jsonl file. Nothing stays in
memory between passes. The fingerprint hashes the raw bytes, so that cached results (a
tokenizer, tokens) are found without parsing the text. `check_unchanged` tells whether
what was read is what the fingerprint hashed.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path
from typing import Protocol, runtime_checkable

from lostjax.data.cache import hash_parts
from lostjax.data.text.hashed_files import HashedFiles
from lostjax.data.text.unreadable import (
    BadFiles,
    Fault,
    describe_encoding,
    find_foreign_kind,
    gather,
)
from lostjax.errors import first_line

LONGEST_LINE = 2**26
"""Bytes of a line of JSON; parsing takes seven times as much memory."""


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


class ReadFiles(HashedFiles, ABC):
    """Files of documents; if one is bad, those after it are looked at as well."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents of the files, in order.

        Raises:
          BadFiles: if a file is not what it should be, with the offset of the first bad
            byte or the number of the bad line. It names further bad files too.
        """
        for number, path in enumerate(self.paths, 1):
            try:
                yield from self._read(path)
            except BadFiles as error:
                later = map(self._read, self.paths[number:])
                raise gather(error, later) from error.__cause__

    @abstractmethod
    def _read(self, path: Path) -> Iterator[str]:
        """Iterate over the documents of a file; none is empty."""


@dataclass(frozen=True)
class TextFiles(ReadFiles):
    """UTF-8 text files with one document each; empty files are skipped."""

    paths: tuple[Path, ...]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order; names do not matter."""
        return hash_parts("text", *self.file_hashes)

    def _read(self, path: Path) -> Iterator[str]:
        with _open(path) as file:
            data = file.read()
        if text := _decode(data, where=str(path), path=path):
            yield text


@dataclass(frozen=True)
class JsonLines(ReadFiles):
    """Files with one JSON object per line, whose `field` is a document.

    Blank lines and empty documents are skipped.
    """

    paths: tuple[Path, ...]
    field: str = "text"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' bytes, in order, and of the field."""
        return hash_parts("jsonl", self.field, *self.file_hashes)

    def _read(self, path: Path) -> Iterator[str]:
        with _open(path) as file:
            lines = iter(partial(file.readline, LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                if len(line) > LONGEST_LINE:
                    what = f"the line has more than {LONGEST_LINE:,} bytes"
                    raise BadFiles([Fault(where, what, "split the document")])
                if line.strip() and (text := self._parse(line, path, where)):
                    yield text

    def _parse(self, line: bytes, path: Path, where: str) -> str:
        text = _decode(line, where=where, path=path)
        try:
            record = json.loads(text)
        # Numbers of 5,000 digits raise ValueError, deep nesting RecursionError.
        except (RecursionError, ValueError) as error:
            what = f"not JSON: {first_line(error)}"
            raise BadFiles([Fault(where, what)]) from error
        if not isinstance(record, dict):
            raise BadFiles([Fault(where, f"not a JSON object but {_kind(record)}")])
        if self.field not in record:
            names = ", ".join(map(repr, list(record)[:8])) or "none"
            what = f"no field {self.field!r} (its fields: {names})"
            raise BadFiles([Fault(where, what, f"choose one with {path}#FIELD")])
        found = record[self.field]
        if not isinstance(found, str):
            what = f"field {self.field!r} must be a string, not {_kind(found)}"
            raise BadFiles([Fault(where, what)])
        return check_unicode(found, where=where)


@dataclass(frozen=True)
class Chain:
    """Documents of several parts, one part after the other."""

    parts: tuple[TextDocuments, ...]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents of each part, in order.

        Raises:
          BadFiles: if a file is bad; it names those of later parts too.
        """
        for number, part in enumerate(self.parts, 1):
            try:
                yield from part
            except BadFiles as error:
                raise gather(error, self.parts[number:]) from error.__cause__

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
        what = (
            f"character {error.start} is half of a surrogate pair, which is not valid "
            "text"
        )
        raise BadFiles([Fault(where, what)]) from error
    return text


def _decode(data: bytes, *, where: str, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFiles([describe_encoding(error, where=where, path=path)]) from error


def _open(path: Path) -> BufferedReader:
    try:
        file = path.open("rb")
        start = file.peek(8)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise BadFiles([Fault(str(path), what)]) from error
    if fault := find_foreign_kind(path, start):
        file.close()
        raise BadFiles([fault])
    return file


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
