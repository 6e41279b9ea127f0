"""Lines of JSON that are chained by hashes: each vouches for all lines before it.

    {"step": 1, "loss": 5.5, "hash": "a"}     a = XXH3('{"step": 1, "loss": 5.5')
    {"step": 2, "loss": 5.4, "hash": "b"}     b = XXH3(a + '{"step": 2, "loss": 5.4')

The hash is part of its line, so that a line and its hash reach the disk in one write. A
changed, exchanged, doubled or removed line breaks the chain there; the lines after it
are read by the hash that the line still holds. A file that ends too early breaks
nothing: its reader must know how many lines there should be. Lines without a hash, as
earlier versions wrote them, may only come first; the first hash vouches for them too.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lostjax.disk.seal import HASH, digest

_TAIL = re.compile(rb', "hash": "([0-9a-f]{32})"\}\n\Z')
_HEX = re.compile(rb"[0-9a-f]{32}")
_MOST_LINKS = 4
"""Links that the line after a damaged one may continue from."""


class Line(NamedTuple):
    """One line of a file."""

    raw: bytes
    """With its line break."""
    values: dict[str, Any] | None
    """Without the hash; None if the line is damaged."""
    link: str
    """The hash from which the next line continues."""
    is_hashed: bool
    """False for a line of an earlier version, which no hash of its own vouches for."""


class DamagedLines(ValueError):
    """A file with damaged lines; the message names the file and the lines."""

    def __init__(self, message: str, whole: list[dict[str, Any]]) -> None:
        """Make an error that carries the whole lines."""
        super().__init__(message)
        self.whole = whole
        """Values of the lines that are whole, in order."""


def chain_line(values: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Format an object as the line after another one.

    Args:
      values: what JSON can hold, without NaN; not empty, none is called `hash`.
      previous: `link` of the line before it; empty for the first.

    Returns:
      The line, and its link.
    """
    content = json.dumps(values, allow_nan=False).removesuffix("}").encode()
    link = digest(previous.encode() + content)
    return content + f', "{HASH}": "{link}"}}\n'.encode(), link


def chain_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Format objects as a whole file."""
    lines, link = [], ""
    for values in rows:
        line, link = chain_line(values, link)
        lines.append(line)
    return b"".join(lines)


def is_numbers(value: object) -> bool:
    """Return whether a value of JSON holds numbers and null alone."""
    if isinstance(value, dict):
        return all(map(is_numbers, value.values()))
    if isinstance(value, list):
        return all(map(is_numbers, value))
    # Larger integers than any count overflow where they become floats.
    return value is None or isinstance(value, float) or _is_count(value)


def read_chain(
    data: bytes, *, allowed: Callable[[object], bool] = is_numbers
) -> list[Line]:
    """Read the lines of a file, damaged ones included.

    Args:
      data: the whole file. A last line without a line break, which a crash cut short,
        is left out.
      allowed: returns whether a line may have a value; other lines are damaged.

    Returns:
      The lines in order.
    """
    lines: list[Line] = []
    links = [""]  # hashes that the next line may continue from
    is_old = True  # no line with a hash was seen
    for raw in data.split(b"\n")[:-1]:
        raw += b"\n"
        if tail := _TAIL.search(raw):
            stored = tail[1].decode()
            content = raw[: tail.start()]
            found = [digest(link.encode() + content) for link in links]
            values = _parse(content + b"}", allowed) if stored in found else None
            links = [stored] if values is not None else [stored, *found]
            if values is None and is_old:
                # Nothing tells which of the lines until here is another one.
                lines = [line._replace(values=None) for line in lines]
            is_old = False
            lines.append(Line(raw, values, stored, is_hashed=True))
        elif is_old and (values := _parse(raw, allowed)) is not None:
            links = [digest(links[0].encode() + raw)]
            lines.append(Line(raw, values, links[0], is_hashed=False))
        else:
            # What is left of its hash, or the one that its text would have had.
            left = [part.decode() for part in _HEX.findall(raw)[-1:]]
            links = [*left, *(digest(link.encode() + raw) for link in links)]
            lines.append(Line(raw, None, links[0], is_hashed=False))
        links = links[:_MOST_LINKS]
    return lines


def describe_damage(lines: list[Line]) -> str:
    """Name the damaged lines, counted from 1, as a clause; empty if there is none."""
    bad = [number for number, line in enumerate(lines, 1) if line.values is None]
    if not bad:
        return ""
    if len(bad) == 1:
        return f"line {bad[0]} is damaged, or the one before it is missing"
    return f"{len(bad)} lines are damaged, the first is line {bad[0]}"


def _parse(raw: bytes, allowed: Callable[[object], bool]) -> dict[str, Any] | None:
    """Parse an object of allowed values with an integer `step`; None if it is none."""
    try:
        line = json.loads(raw)
        whole = isinstance(line, dict) and type(line.get("step")) is int
        fits = whole and HASH not in line and all(map(allowed, line.values()))
        return line if fits else None
    except (ValueError, RecursionError):  # deep nesting raises RecursionError
        return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 2**63
