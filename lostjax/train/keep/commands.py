"""The commands that a run was started and resumed with.

RUN/commands.jsonl     one line a start: {"step": 0, "command": "python -m ...", ...}

The lines are chained by hashes, see `lostjax.disk.chain`, and the last one is marked.
They decide no number: what is damaged or missing is named, and the run goes on without
it.
"""

import sys
from pathlib import Path
from typing import Any

from lostjax.disk.chain import Line, chain_lines, describe_damage, read_chain
from lostjax.disk.files import keep_aside, replace_file
from lostjax.train.keep.layout import COMMANDS_FILE

_LAST = {"last": 1}


def record_command(directory: Path, command: str, *, step: int) -> None:
    """Append the command of a process that continues a run.

    It is named on standard error if the file is missing, and the run has done steps.

    Args:
      directory: the run's directory, which this process holds.
      command: the command line.
      step: steps done before.

    Raises:
      OSError: if it cannot be written.
    """
    path = directory / COMMANDS_FILE
    rows = _read_rows(directory)
    if step and not rows:
        print(f"{path}: is missing: earlier commands are lost", file=sys.stderr)
    _write_rows(path, [*rows, {"step": step, "command": command}])


def mend_commands(directory: Path) -> bool:
    """Keep a damaged file of commands aside, and go on with the lines that are whole.

    What is damaged is named on standard error.

    Returns:
      Whether there are commands.

    Raises:
      OSError: if the file cannot be read or written.
    """
    path = directory / COMMANDS_FILE
    rows = _read_rows(directory)
    if damage := find_damage(directory):
        aside = keep_aside(path)
        print(
            f"{path}: {damage}; the file is kept as {aside.name}, and the run goes on "
            "with the other lines",
            file=sys.stderr,
        )
        _write_rows(path, rows)
    return bool(rows)


def adopt_commands(directory: Path) -> None:
    """Write hashes of commands that an earlier version recorded."""
    lines = read_command_lines(directory)
    if lines and not any(line.is_hashed for line in lines):
        _write_rows(directory / COMMANDS_FILE, _read_rows(directory))


def find_damage(directory: Path) -> str:
    """Describe what is damaged or missing in the file; empty if nothing is."""
    lines = read_command_lines(directory)
    if damage := describe_damage(lines):
        return damage
    is_cut = lines and lines[-1].is_hashed and _has_successor(lines[-1])
    is_empty = not lines and (directory / COMMANDS_FILE).exists()
    return "its last lines are missing" if is_cut or is_empty else ""


def read_commands(directory: Path) -> list[str]:
    """Return a line for each start of a run, the first one first.

    Commands of resumed runs say from which step they continued. Lines that are damaged
    are left out.
    """
    return [
        row["command"] + (f"  # from step {row['step']}" if row["step"] else "")
        for row in _read_rows(directory)
    ]


def read_command_lines(directory: Path) -> list[Line]:
    """Read the lines of the file, damaged ones included; none if there is no file."""
    path = directory / COMMANDS_FILE
    return read_chain(path.read_bytes(), allowed=_is_entry) if path.exists() else []


def _read_rows(directory: Path) -> list[dict[str, Any]]:
    return [
        {"step": line.values["step"], "command": line.values["command"]}
        for line in read_command_lines(directory)
        if line.values is not None and isinstance(line.values.get("command"), str)
    ]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    marked = [*rows[:-1], *(row | _LAST for row in rows[-1:])]
    replace_file(path, chain_lines(marked))


def _has_successor(line: Line) -> bool:
    """Return whether a line tells that another one was written after it."""
    return line.values is not None and not _LAST.items() <= line.values.items()


def _is_entry(value: object) -> bool:
    return isinstance(value, str) or type(value) is int
