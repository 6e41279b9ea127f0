"""Errors that a user can cause, and hints about the nearest right name."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A value that a run cannot have; the message names it and what is allowed."""


class DataError(ValueError):
    """Text, tokens or a tokenizer that cannot be used; the message is one line."""


def nearest_hint(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Suggest the known name that was probably meant.

    Args:
      name: the unknown name.
      known: the names that exist.
      prefix: is written before the suggestion.

    Returns:
      `; did you mean X?`, or nothing if no name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
