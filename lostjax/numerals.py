"""Parsing of whole numbers in user input such as `v5e:4x4`, `bpe:4096` or `10:13`.

`str.isdigit` and `int` disagree: the superscript two is a digit that `int` rejects, and
`int` raises its own error for texts of more than a few thousand digits. This module
accepts ASCII digits only, within an explicit range.
"""

import re


def read_whole(text: str, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
    """Parse a whole number.

    Args:
      text: ASCII digits only; leading zeros are allowed.
      least: smallest accepted number, at least 0.
      most: largest accepted number.

    Returns:
      The number, or None if the text is not a numeral or the number is out of range.
    """
    digits = text.lstrip("0") or "0"
    # Compare lengths before converting: `int` raises beyond about 4,300 digits.
    if not re.fullmatch("[0-9]+", text) or len(digits) > len(str(most)):
        return None
    number = int(digits)
    return number if least <= number <= most else None
