"""Whole numbers that somebody wrote, as in `v5e:4x4`, `bpe:4096` or `10:13`.

Python's own tests and reading do not agree: `isdigit` takes the superscript two, which
`int` does not, and `int` refuses more than some thousand digits with an error of its
own. Here a numeral is ASCII digits, of a number in a range, or it is none.
"""

import re


def read_whole(text: str, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
    """Read a whole number.

    Args:
      text: ASCII digits and nothing else; zeros may lead.
      least: the smallest number that is taken, at least 0.
      most: the largest.

    Returns:
      The number; None where the text is something else, or out of the range.
    """
    digits = text.lstrip("0") or "0"
    if not re.fullmatch("[0-9]+", text) or len(digits) > len(str(most)):
        return None
    number = int(digits)
    return number if least <= number <= most else None
