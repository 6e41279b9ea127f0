"""The commands that a run was started and resumed with.

RUN/commands.jsonl     one line a start: {"step": 0, "command": "python -m ..."}
"""

from pathlib import Path

from lostjax.disk.records import append_record, read_records
from lostjax.train.keep.layout import COMMANDS_FILE


def record_command(directory: Path, command: str, *, step: int) -> None:
    """Append the command of a process that continues a run.

    Args:
      directory: the run's directory.
      command: the command line.
      step: steps done before.

    Raises:
      OSError: if it cannot be written.
    """
    append_record(directory / COMMANDS_FILE, {"step": step, "command": command})


def read_commands(directory: Path) -> list[str]:
    """Return a line for each start of a run, the first one first.

    Commands of resumed runs say from which step they continued. Lines that are damaged
    are left out: they decide nothing.
    """
    lines = []
    for _, value in read_records(directory / COMMANDS_FILE):
        if value is None or not isinstance(value.get("command"), str):
            continue
        step = value.get("step")
        lines.append(value["command"] + (f"  # from step {step}" if step else ""))
    return lines
