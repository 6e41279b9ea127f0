"""The grammar of a text source, given as one string on the command line.

    SOURCE   := PART | PART , PART ...                    one text after the other
              | WEIGHT*PART , WEIGHT*PART ...             a mixture, by share of rows
    PART     := sotu                    State of the Union messages, 1790 to today
              | sotu:YEAR | sotu:YEAR-YEAR   messages of some years, both ends included
              | tfds:NAME[#FIELD]       a data set prepared under TFDS's directory
              | tfds:DIRECTORY[#FIELD]  the directory of a prepared data set
              | FILE.jsonl[#FIELD]      one JSON object per line; FIELD defaults to text
              | FILE.npy | FILE.bin     token ids (.bin: little-endian uint16)
              | FILE                    any other file: UTF-8 text, one document
              | DIRECTORY[#FIELD]       every .txt and .jsonl file below it
              | GLOB[#FIELD]            files of one kind; * ? [] and ** for any depth
    WEIGHT   := a positive decimal; weights are relative

Files are read in the order of their names. A path that exists is always taken as a
path, whatever characters it contains. A prefix of a number and a star is read as a
weight; write ./2*.txt for a glob that begins this way.
"""

import os
import re
from dataclasses import dataclass
from fractions import Fraction

from lostjax.errors import DataError

_WEIGHTED = re.compile(
    r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\*(.+)", re.DOTALL
)


@dataclass(frozen=True)
class WeightedNames:
    """A part of a mixture that is not opened yet: texts that are read in order."""

    weight: Fraction
    names: tuple[str, ...]


def parse_source(source: str) -> tuple[WeightedNames, ...]:
    """Split a source into its weighted parts.

    Args:
      source: text in the module's grammar.

    Returns:
      The parts, each of one name; a single part of weight 1, of one name or more, if
      the source is not a mixture.

    Raises:
      DataError: if the source or a part is empty, only some parts have a weight, or a
        weight is 0.
    """
    if not source.strip():
        raise DataError("source: empty; the default text is sotu")
    # An existing path wins: its name may contain commas or stars.
    if os.path.exists(source):
        return (WeightedNames(Fraction(1), (source,)),)
    parts = source.split(",")
    matches = [_WEIGHTED.fullmatch(part) for part in parts]
    if not any(matches):
        names = tuple(part.strip() for part in parts)
        if not all(names):
            raise DataError(f"source {source!r}: a part between commas is empty")
        return (WeightedNames(Fraction(1), names),)
    return tuple(
        _weighted(part, match, source=source)
        for part, match in zip(parts, matches, strict=True)
    )


def _weighted(part: str, match: re.Match[str] | None, *, source: str) -> WeightedNames:
    if match is None:
        raise DataError(
            f"source {source!r}: the part {part.strip()!r} has no weight; write a "
            "mixture as 0.7*sotu,0.3*books/*.txt, or no weight at all"
        )
    # A fraction keeps the decimal exact; 0.1 as a float has no short common
    # denominator.
    weight = Fraction(match[1])
    if weight <= 0:
        raise DataError(f"source {source!r}: the weight {match[1]} must be above 0")
    return WeightedNames(weight, (match[2].strip(),))
