"""Files of JSON lines, one for a step, that a run appends to and goes back in.

    {"step": 1, ...}

A line that a crash cut short is not read, and is removed when a run goes on, or the
next line would be joined to it. Anything else that is not a JSON object with an integer
`step` is damage, and is said.
"""

import json
from pathlib import Path
from typing import Any

from lostjax.disk.appending import AppendingFile
from lostjax.disk.files import replace_file


def reopen_lines(path: Path, resume_step: int) -> AppendingFile:
    """Open a file of JSON lines for appending, as a run that goes on wants it.

    Args:
        path: The file; made where missing.
        resume_step: Lines of later steps are removed, and a torn one.

    Raises:
        ValueError: If another line is not a JSON object with an integer `step`.
    """
    there = path.read_bytes() if path.exists() else b""
    kept = _lines_until(resume_step, there, path)
    if len(kept) != len(there):
        replace_file(path, kept)
    return AppendingFile(path)


def cut_lines(file: AppendingFile, step: int) -> None:
    """Cut the lines of later steps off a file that a run appends to.

    Raises:
        OSError: If it cannot be read or cut.
    """
    file.cut(len(_lines_until(step, file.read(), file.path)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines as it is, with null; no file gives no lines.

    Raises:
        ValueError: If a line, other than a torn last one, is not a JSON object with an
            integer `step`.
    """
    if not path.exists():
        return []
    return [line for _, line in _whole_lines(path.read_bytes(), path)]


def _lines_until(step: int, data: bytes, path: Path) -> bytes:
    return b"".join(r for r, line in _whole_lines(data, path) if line["step"] <= step)


def _whole_lines(data: bytes, path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Give each line as bytes and as parsed, without a last one that is torn."""
    lines = data.splitlines(keepends=True)
    parsed = []
    for number, raw in enumerate(lines, 1):
        line = _parse(raw)
        if line is not None:
            parsed.append((raw, line))
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number}: not a JSON object with an integer 'step'; "
                "remove the line"
            )
    return parsed


def _parse(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):  # torn, even where what there is parses
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # 100,000 brackets are no JSON either
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None
