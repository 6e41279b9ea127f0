"""`python -m lostjax.sweep`: learning rates x widths, as tables and a page.

    python -m lostjax.sweep --preset=smoke --rates=3e-3,3e-2,3e-1 --widths=32,64

Every cell is a short run in memory, kept as a line of OUT/cells.jsonl, so that a
stopped sweep resumes. A cell of another configuration is trained again, and the reason
is logged. OUT/sweep.md and OUT/sweep.html show the losses, each width's sensitivity to
the learning rate, and the growth of attention logits.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.sweep")

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from lostjax.data import DataError
from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.nn import count_parameters
from lostjax.sweep.grid import run_grid
from lostjax.sweep.table import format_markdown, make_tables, render_sweep
from lostjax.train.build.model import build_model
from lostjax.train.config.schema import StabilityConfig, TrainConfig
from lostjax.train.config.widths import at_width
from lostjax.train.flags import config_of, parse_run_flags
from lostjax.train.log.output import run_program

PROGRAM = "python -m lostjax.sweep"
N = TypeVar("N", int, float)
CELLS, TABLES, PAGE = "cells.jsonl", "sweep.md", "sweep.html"
READINGS = 20
"""Readings of a run's attention logits, if `--stability.every` is 0."""
_KINDS = {int: "integer", float: "number"}


@dataclasses.dataclass(frozen=True)
class Flags(TrainConfig):
    """Train a configuration at several learning rates and widths, and compare.

    The flags of `python -m lostjax.train` say what is trained. Head width, depth, steps
    and data are the same in all cells; heads, hidden width and rank grow with the
    width.
    """

    config: str | None = None
    """JSON file of default values, such as RUN/config.json."""
    rates: str = "3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1"
    """Peak learning rates, evenly spaced in their logarithm."""
    widths: str = ""
    """Widths of the residual stream; default: only --model.d-model."""
    predict_width: int = 0
    """Extrapolate the largest attention logits to this width (0: do not)."""
    out: str = "runs/sweep"
    """Directory of the cells, the tables and the page."""


def sweep(flags: Flags) -> str:
    """Run a sweep and write its tables and page.

    Returns:
      The tables as Markdown.

    Raises:
      ConfigError, DataError: naming what is wrong and what would be right.
      OSError: if a file cannot be written; the cells so far are kept.
    """
    config = config_of(flags)
    if config.run_dir is not None:
        raise ConfigError(f"--run-dir={config.run_dir}: a sweep's directory is --out")
    out = read_path(flags.out, flag="--out")
    rates = _numbers("--rates", flags.rates, kind=float)
    if not rates:
        raise ConfigError("--rates: needs at least one learning rate")
    widths = _numbers("--widths", flags.widths, kind=int)
    if not config.stability.every:
        every = max(1, config.steps // READINGS)
        config = dataclasses.replace(config, stability=StabilityConfig(every=every))
    larger = None
    if flags.predict_width:
        larger = _count(config, flags.predict_width)
    _open_folder(out)
    print(
        f"writing to {out}: {CELLS} with each run, {TABLES} and {PAGE} at the end",
        flush=True,
    )
    grid = run_grid(
        config,
        rates=rates,
        widths=widths or [config.model.d_model],
        path=out / CELLS,
        say=lambda line: print(line, flush=True),
    )
    tables = make_tables(grid, larger=larger)
    text = format_markdown(tables)
    page = render_sweep(grid, tables, config=config)
    replace_file(out / TABLES, text.encode())
    replace_file(out / PAGE, page.encode())
    return text


def _open_folder(out: Path) -> None:
    """Make the directory, and refuse one that could not be written after hours."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "is a file, not a directory" if is_file else error.strerror
        raise ConfigError(f"--out={out}: {reason}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"--out={out}: no permission to write in it")
    for name in (CELLS, TABLES, PAGE):
        path = out / name
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise ConfigError(f"--out={out}: cannot write {name} in it")


def _count(config: TrainConfig, width: int) -> int:
    model = build_model(at_width(config.model, width), vocab_size=1)
    return count_parameters(model).non_embedding


def _numbers(flag: str, text: str, *, kind: type[N]) -> list[N]:
    """Read positive numbers between commas, each once."""
    numbers = []
    for word in filter(None, text.replace(" ", "").split(",")):
        try:
            number = kind(word)
        except ValueError:
            number = kind(0)
        if not 0 < number < math.inf:
            raise ConfigError(
                f"{flag}={text}: {word!r} must be a positive {_KINDS[kind]}; write "
                "numbers with commas between them"
            )
        if number in numbers:
            raise ConfigError(f"{flag}={text}: {word} is given twice")
        numbers.append(number)
    return numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = parse_run_flags(Flags, words, program=PROGRAM)
        print(sweep(flags))
        out = read_path(flags.out, flag="--out")
        print(f"tables   {out / TABLES}\nfigures  {out / PAGE}")
    except (ConfigError, DataError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
