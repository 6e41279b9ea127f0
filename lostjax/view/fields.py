"""Settings by name, nested or not, as tables of two columns."""

import json
from collections.abc import Iterator, Mapping

from lostjax.view.numbers import MISSING
from lostjax.view.page import Table


def tabulate_fields(fields: Mapping[str, object], *, rest: str) -> list[Table]:
    """Make a table for each group of fields, and one for those outside a group.

    Args:
      fields: values by name; a mapping is a group, and names inside it are joined
        with dots.
      rest: caption of the table of the fields outside a group.

    Returns:
      Tables in the order of their first fields; an empty group has none.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            groups.setdefault(name, []).extend(_flatten(value))
        else:
            groups.setdefault(rest, []).append((name, format_value(value)))
    return [
        Table(name, ("name", "value"), rows) for name, rows in groups.items() if rows
    ]


def format_value(value: object) -> str:
    """Format a setting: text as it is, everything else as JSON."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value if value else '""'
    return json.dumps(value, default=str, ensure_ascii=False)


def _flatten(
    fields: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", format_value(value)
