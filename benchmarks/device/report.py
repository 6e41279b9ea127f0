"""Rows of the check as text, as JSON and as a dated page of Markdown."""

import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
from typing import Any

from device.forms import BASE

Row = dict[str, Any]
Column = tuple[str, str, float, str]
"""Heading, key of the row, factor, format."""

COLUMNS: dict[str, list[Column]] = {
    "values": [
        ("XLA's error", "xla_error", 1, ".5f"),
        ("kernel's error", "kernel_error", 1, ".5f"),
        ("ratio", "ratio", 1, ".2f"),
    ],
    "times": [
        ("tokens/s", "tokens_per_second", 1, ",.0f"),
        ("step ms", "seconds", 1e3, ".2f"),
        (f"of {BASE}", "of_base", 1, ".3f"),
        ("layer ms", "layer_seconds", 1e3, ".3f"),
        (f"of {BASE}'s", "layer_of_base", 1, ".3f"),
        ("MFU", "mfu", 1, ".3f"),
        ("peak GB", "peak", 1e-9, ".3f"),
        ("plan GB", "plan_peak", 1e-9, ".3f"),
        ("plan's error", "plan_error", 1, "+.1%"),
        ("plan ms", "plan_seconds", 1e3, ".2f"),
    ],
    "memory": [
        ("rows", "rows", 1, "d"),
        ("peak GB", "peak", 1e-9, ".3f"),
        ("plan's rows", "plan_rows", 1, "d"),
        ("plan GB", "plan_peak", 1e-9, ".3f"),
        ("plan's error", "plan_error", 1, "+.1%"),
    ],
}
TITLES = {
    "values": "Values and gradients, against XLA's in float32",
    "times": "Training steps and layers",
    "memory": "The largest batch of LOST with FRUGAL",
}
NAME = 34


def format_cells(section: str, row: Row) -> list[str]:
    """Write a row's cells; empty where there is no figure."""
    cells = []
    for heading, key, factor, style in COLUMNS[section]:
        value = row.get(key)
        text = "" if value is None else format(factor * value, style)
        if heading == "peak GB" and text and row.get("peak_is") == "at most":
            text = f"<= {text}"
        cells.append(text)
    return cells


def format_heads(section: str) -> str:
    """Write the heading of a section's lines."""
    heads = [f"{head:>{_width(head)}}" for head, *_ in COLUMNS[section]]
    return f"\n{TITLES[section]}\n{section:<{NAME}}{''.join(heads)}"


def format_row(section: str, name: str, row: Row) -> str:
    """Write a row as a line."""
    cells = format_cells(section, row)
    padded = [
        f"{cell:>{_width(head)}}"
        for cell, (head, *_) in zip(cells, COLUMNS[section], strict=True)
    ]
    return f"{name:<{NAME}}{''.join(padded)}  {format_status(row)}".rstrip()


def format_status(row: Row) -> str:
    """Say what became of a row, and why."""
    status, note = row.get("status", ""), row.get("note", "")
    if status in ("", "done"):
        return str(note)
    return f"{status}: {note}" if note else str(status)


def describe(check: Any, words: list[str]) -> Row:
    """Describe the run: command, date, device, driver and versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
    return {
        "command": shlex.join(["python3", f"benchmarks/{check.kind}.py", *words]),
        "date": datetime.date.today().isoformat(),
        "device": check.device.get("device", "none"),
        "device_memory": check.device.get("memory"),
        "driver": _driver(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages if _version(name)},
        "dry": check.toy,
    }


def format_json(run: Row, results: Row) -> str:
    """Write everything, with what the table leaves out."""
    return json.dumps({"run": run, "sections": results}, indent=1) + "\n"


def format_markdown(run: Row, results: Row) -> str:
    """Write a page as those beside the benchmarks are."""
    date = datetime.date.fromisoformat(run["date"])
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    kind = "measured: medians of calls in turn with LOST's; the plan's columns static"
    lines = [
        f"# Check of one {run['device']}",
        "",
        f"- **Kind**: {'a dry run at toy size, no figures' if run['dry'] else kind}.",
        f"- **Hardware**: {run['device']}, driver {run['driver']}.",
        f"- **Versions**: {versions}, Python {run['python']}.",
        f"- **Date**: {date.day} {date:%B %Y}.",
        "",
        f"      {run['command'].replace('python3', 'python', 1)}",
    ]
    for section, rows in results.items():
        heads = [head for head, *_ in COLUMNS[section]]
        lines += ["", f"## {TITLES[section]}", ""]
        lines += [f"| {section} | {' | '.join(heads)} | |"]
        lines += [f"| --- | {'---: | ' * len(heads)}--- |"]
        for name, row in rows.items():
            cells = " | ".join(format_cells(section, row))
            lines.append(f"| {name} | {cells} | {format_status(row)} |")
    return "\n".join(lines) + "\n"


def _width(heading: str) -> int:
    return max(11, len(heading) + 2)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    """Ask nvidia-smi for the driver, if there is one."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return said.stdout.strip().partition("\n")[0] or "none"
