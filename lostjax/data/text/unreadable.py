"""Files that are not text: what each of them is, and what makes text of it.

A folder may hold many of them. `BadFiles` collects their faults, so that one message
names them all.
"""

import shlex
from codecs import getincrementaldecoder
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lostjax.errors import DataError

MOST_NAMED = 10
"""Files that one message names."""

MOST_READ = 2**28
"""Characters that are read after a bad file, in search of others: some seconds."""

_UNPACKED_BY = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
}
"""First bytes of compressed files to the command that unpacks them."""

_OFFICE = frozenset({".docx", ".odt", ".epub", ".xlsx", ".pptx", ".ods", ".odp"})
"""Suffixes of zip files whose members are not text either."""

_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Fault(NamedTuple):
    """What is wrong with a file."""

    where: str
    """The file, and the line if it has lines."""
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.remedy}" * bool(self.remedy))


class BadFiles(DataError):
    """At least one file cannot be read as text."""

    def __init__(self, faults: Iterable[Fault], *, is_all: bool = True) -> None:
        """Name the faults, and what helps against the first of them.

        Args:
          faults: at least one.
          is_all: whether all files were looked at.
        """
        self.faults, self.is_all = tuple(faults), is_all
        super().__init__(_describe(self.faults, is_all=is_all))


def gather(first: BadFiles, later: Iterable[Iterable[str]]) -> BadFiles:
    """Look for more faults in the texts after a bad one.

    Args:
      first: the error that ended the reading.
      later: texts that were not read yet; each is read to its end, or to its error.

    Returns:
      The faults of all texts, up to `MOST_NAMED` faults and `MOST_READ` characters.
    """
    faults, is_all, room = list(first.faults), first.is_all, MOST_READ
    for texts in later:
        is_all = is_all and room > 0 and len(faults) < MOST_NAMED
        if not is_all:
            break
        try:
            for text in texts:
                room -= len(text)
                if room <= 0:
                    break
        except BadFiles as error:
            faults += error.faults
            is_all = error.is_all
    return BadFiles(faults[:MOST_NAMED], is_all=is_all and len(faults) <= MOST_NAMED)


def find_foreign_kind(path: Path, start: bytes) -> Fault | None:
    """Recognise a file of another kind by its name and its first 8 bytes."""
    if start.startswith(b"%PDF"):
        remedy = f"extract its text, for example with pdftotext {_quote(path)}"
        return Fault(str(path), "a PDF, not text", remedy)
    office = path.suffix.lower() in _OFFICE and start.startswith(b"PK")
    if office or start.startswith(_OLD_OFFICE):
        remedy = "save it as plain text in UTF-8 first"
        return Fault(str(path), "an office document, not text", remedy)
    for magic, command in _UNPACKED_BY.items():
        if start.startswith(magic):
            return Fault(str(path), "compressed", f"unpack it first with {command}")
    return None


def describe_encoding(error: UnicodeDecodeError, *, where: str, path: Path) -> Fault:
    """Describe bytes that are not UTF-8, with the command that converts the file.

    Args:
      error: of decoding the file, or a line of it.
      where: the file, and the line if it has lines.
      path: the file.
    """
    data = error.object
    what = f"not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})"
    encoding = "WINDOWS-1252"  # a superset of Latin-1's letters: the likeliest
    if data.startswith(_UTF_16):
        encoding = "UTF-16"
    elif any(byte in data for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)):
        encoding = "ITS-ENCODING"  # Windows-1252 has no such bytes
    return Fault(
        where,
        what,
        f"convert it, for example with iconv -f {encoding} -t UTF-8 {_quote(path)} > "
        "NEW",
    )


def name_some(paths: Iterable[Path], *, below: Path, most: int = 5) -> str:
    """List files by their names below a directory: the first ones, and a count."""
    names = [_printable(str(path.relative_to(below))) for path in paths]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def looks_like_text(path: Path) -> bool:
    """Return whether a file begins as UTF-8 text does."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    try:
        # Not final: the last character may be cut.
        return "\0" not in getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False


def _describe(faults: tuple[Fault, ...], *, is_all: bool) -> str:
    if len(faults) == 1 and is_all:
        return str(faults[0])
    named = "; ".join(f"{fault.where}: {fault.what}" for fault in faults)
    count = f"{len(faults)} file{'s' * (len(faults) > 1)}"
    count += "" if is_all else " or more"
    remedy = f"; the first: {faults[0].remedy}" if faults[0].remedy else ""
    return f"{count} cannot be read as text: {named}{remedy}"


def _quote(path: Path) -> str:
    return shlex.quote(_printable(str(path)))


def _printable(text: str) -> str:
    """Keep a name from breaking the line that it stands in."""
    return text if text.isprintable() else ascii(text)[1:-1]
