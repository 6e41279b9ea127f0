"""Run the notebooks at full size and write their outputs into the files.

    python notebooks/execute.py                       all of them
    python notebooks/execute.py 1_pretrain.ipynb      some

`make notebooks` is the same. Every notebook begins alike: a badge, the machine and time
of its outputs, and a cell that installs lostjax. All three are written here, so that a
change reaches every notebook.
"""

import argparse
import base64
import datetime
import io
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

HERE = Path(__file__).parent
NAMES = sorted(path.name for path in HERE.glob("*.ipynb"))

REPOSITORY = "OWNER/lostjax"
"""Placeholder: the repository's OWNER/NAME on GitHub, once it is public."""

SMALL = "LOSTJAX_NOTEBOOK_SMALL"
"""Environment variable with which notebooks take seconds, for tests."""

_COLORS = 64  # of a figure's palette: lines and bars need no more

_SETUP = '''\
# Installs lostjax if it is missing; safe to run twice.
import importlib.metadata
import importlib.util
import os
import pathlib
import re

SMALL = bool(os.environ.get("LOSTJAX_NOTEBOOK_SMALL"))  # set by tests: seconds a cell


def requirements(source, extra):
    """List what pip installs: jax changes only together with its TPU or GPU plugin."""
    try:
        version = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if tuple(map(int, re.findall(r"\\d+", version)[:3])) >= (0, 10, 2):
        jaxlib = importlib.metadata.version("jaxlib")
        return f'"lostjax[train,{extra}] @ {source}" jax=={version} jaxlib=={jaxlib}'
    on_gpu = pathlib.Path("/dev/nvidiactl").exists()
    on_tpu = importlib.util.find_spec("libtpu") is not None
    chip = "cuda12" if on_gpu else "tpu" if on_tpu else "train"
    return f'"lostjax[{chip},{extra}] @ {source}"'


if importlib.util.find_spec("lostjax") is None:
    wanted = requirements("git+https://github.com/REPOSITORY", "EXTRA")
    get_ipython().run_line_magic("pip", f"install -q {wanted}")
    if "jax==" not in wanted:
        print("jax is new: restart the session if anything imported it before")'''


def badge(name: str) -> str:
    """Write the link that opens a notebook in Colab; its image is a file beside it."""
    url = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main"
    return f"[![Open in Colab](colab.svg)]({url}/notebooks/{name})"


def setup(extra: str) -> str:
    """Write the cell that installs lostjax with one of its extras."""
    return _SETUP.replace("REPOSITORY", REPOSITORY).replace("EXTRA", extra)


def read(path: Path) -> Any:
    """Read a notebook, with the badge and the first cell of code as they are here."""
    notebook = nbformat.read(path, as_version=4)
    _replace_line(notebook, "[![", badge(path.name))
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.source = setup(notebook.metadata["lostjax"]["extra"])
    return notebook


def execute(notebook: Any, *, directory: Path) -> nbclient.NotebookClient:
    """Run every cell of a notebook, in place.

    Args:
      notebook: from `read`.
      directory: where its cells run.

    Returns:
      The client, whose kernel has ended.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(directory)}},
    )
    # Of the cells' own streams nothing is lost: the kernel sends them as messages.
    client.execute(stderr=subprocess.DEVNULL)
    return client


def find_noise(notebook: Any) -> list[str]:
    """List what the cells wrote to standard error: a story has no warnings in it."""
    return [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]


def compress_figures(notebook: Any) -> None:
    """Reduce every PNG in the outputs to a palette."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                png = base64.b64decode(data["image/png"])
                data["image/png"] = base64.b64encode(_quantize(png)).decode()


def _describe_execution() -> str:
    """Name the day, the processor, and whether the notebook had it for itself."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    model = re.sub(r"\(R\)|\(TM\)| Processor", "", found[1]) if found else "CPU"
    cores, day = os.cpu_count() or 1, datetime.date.today()
    *_, load = os.getloadavg()
    others = ", beside other programs" if load > 2 * cores else ""
    return (
        f"*Executed on {day.day} {day:%B %Y} on {cores} cores of an {model.strip()}"
        f"{others}"
    )


def _replace_line(notebook: Any, start: str, line: str) -> None:
    """Replace the line of the first cell that begins like this."""
    first = notebook.cells[0]
    lines = first.source.splitlines()
    (place,) = [i for i, old in enumerate(lines) if old.startswith(start)]
    lines[place] = line
    first.source = "\n".join(lines)


def _quantize(png: bytes) -> bytes:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    out = io.BytesIO()
    image.quantize(_COLORS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> int:
    """Run notebooks and write them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run notebooks and write them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args(arguments).names or NAMES
    os.environ.pop(SMALL, None)
    for name in names:
        notebook = read(HERE / name)
        started, used = time.monotonic(), _cpu_seconds()
        with tempfile.TemporaryDirectory() as directory:
            execute(notebook, directory=Path(directory))
        minutes = (time.monotonic() - started) / 60
        cpu_minutes = (_cpu_seconds() - used) / 60
        if noise := find_noise(notebook):
            print(f"{name}: wrote to standard error:", *noise, file=sys.stderr)
            return 1
        compress_figures(notebook)
        times = f"{minutes:.1f} minutes, {cpu_minutes:.1f} minutes of CPU"
        _replace_line(notebook, "*Executed", f"{_describe_execution()}: {times}.*")
        nbformat.write(notebook, HERE / name)
        print(f"{name}: {minutes:.1f} min, {cpu_minutes:.1f} CPU min", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
