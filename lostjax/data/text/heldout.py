"""Hold out a part of a text, the same part on every machine.

With n documents and fraction f:

    n f >= 1   hold out the round(n f) documents with the smallest content hashes, so
               that the choice does not depend on order and copies stay together
    n f <  1   hold out the last f of every document, cut after a line if possible

The two parts are disjoint and together make up the whole text.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import xxhash

from lostjax.data.cache import hash_parts
from lostjax.data.text.documents import TextDocuments
from lostjax.data.text.token_files import TokenFiles
from lostjax.errors import DataError


def hold_out(
    documents: TextDocuments | TokenFiles, *, fraction: float
) -> tuple[TextDocuments | TokenFiles, TextDocuments | TokenFiles]:
    """Split documents into training and held-out documents.

    Args:
      documents: all documents. For files of tokens, the last part of each file is held
        out.
      fraction: fraction to hold out, in (0, 0.5].

    Returns:
      (training documents, held-out documents). Nothing is read yet.

    Raises:
      DataError: if the fraction is out of range.
    """
    if not 0.0 < fraction <= 0.5:
        raise DataError(f"heldout: the fraction {fraction} must lie in (0, 0.5]")
    if isinstance(documents, TokenFiles):
        cut = 1.0 - fraction
        return TokenFiles(documents.paths, 0.0, cut), TokenFiles(
            documents.paths, cut, 1.0
        )
    rule = _Rule(documents, fraction)
    return _Part(rule, held=False), _Part(rule, held=True)


@dataclass(frozen=True)
class _Rule:
    documents: TextDocuments
    fraction: float

    @cached_property
    def threshold(self) -> int | None:
        """Largest hash that is held out; None if tails of documents are."""
        hashes = [_hash(text) for text in self.documents]
        if len(hashes) * self.fraction < 1.0:
            return None
        count = round(len(hashes) * self.fraction)
        threshold = heapq.nsmallest(count, hashes)[-1]
        # The threshold covers all copies of a text; at the maximum nothing is left to
        # train on.
        if threshold == max(hashes):
            raise DataError(
                f"heldout: {len(hashes)} documents are copies of too few texts to hold "
                "some out; pass a separate held-out source"
            )
        return threshold


@dataclass(frozen=True)
class _Part:
    rule: _Rule
    held: bool

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents of this part, in order."""
        for text in self.rule.documents:
            if self.rule.threshold is None:
                cut = _cut(text, self.rule.fraction)
                if piece := text[cut:] if self.held else text[:cut]:
                    yield piece
            elif (_hash(text) <= self.rule.threshold) == self.held:
                yield text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the whole text's fingerprint and of the rule."""
        whole = self.rule.documents.fingerprint
        return hash_parts("part", whole, repr(self.rule.fraction), str(self.held))

    def check_unchanged(self) -> None:
        """Check the whole text, from which the rule chooses."""
        self.rule.documents.check_unchanged()


def _hash(text: str) -> int:
    # A content hash: independent of order, platform and Python's salted hash().
    return xxhash.xxh3_64_intdigest(text.encode("utf-8"))


def _cut(text: str, fraction: float) -> int:
    cut = int(len(text) * (1.0 - fraction))
    line = text.find("\n", cut) + 1
    # Cut inside a line if the line ends too late: hardly anything would be held out.
    return line if 0 < line < len(text) - (len(text) - cut) // 2 else cut
