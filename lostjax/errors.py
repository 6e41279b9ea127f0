"""What is wrong with the text, in one line that names the file."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Text, tokens or a tokenizer that cannot be used; the message is one line."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Args:
      name: what was given.
      known: the names that exist.

    Returns:
      `; did you mean X?`, or nothing where no name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class ConfigError(ValueError):
    """A value that a run cannot have; the message names it and what is allowed."""
