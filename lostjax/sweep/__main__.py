"""`python -m lostjax.sweep`: learning rates x widths, as tables and a figure.

    python -m lostjax.sweep --preset=smoke --rates=3e-3,3e-2,3e-1 --widths=32,64

Every cell is a short run in memory, kept as a line of OUT/cells.jsonl: a sweep that
was stopped continues there. Cells of another configuration are trained again, and the
reason is printed. At the end OUT/sweep.md and OUT/sweep.svg show the losses, each
width's sensitivity to the learning rate, and the growth of attention logits.
"""

import dataclasses
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from lostjax.analysis import predict_max_logit
from lostjax.data import DataError
from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError
from lostjax.nn import count_parameters
from lostjax.sweep.cells import LOSS, PARAMETERS
from lostjax.sweep.grid import (
    MAX_LOGIT,
    Grid,
    cap_loss,
    fit_growths,
    measure_sensitivities,
    run_grid,
)
from lostjax.train.build.model import build_model
from lostjax.train.config.schema import StabilityConfig, TrainConfig
from lostjax.train.config.widths import at_width
from lostjax.train.flags import config_of, parse_run_flags
from lostjax.view.numbers import format_count, format_loss, format_number

PROGRAM = "python -m lostjax.sweep"
N = TypeVar("N", int, float)
READINGS = 20
"""How often a run's attention logits are read, where `--stability.every` is 0."""


@dataclasses.dataclass(frozen=True)
class Flags(TrainConfig):
    """Train a configuration at several learning rates and widths, and compare.

    The flags of `python -m lostjax.train` say what is trained. Head width, depth, steps
    and data are the same in all cells; heads, hidden width and rank grow with the
    width.
    """

    config: str | None = None
    """Start from the values of this JSON file, such as RUN/config.json."""
    rates: str = "3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1"
    """Peak learning rates, evenly spaced in their logarithm."""
    widths: str = ""
    """Widths of the residual stream; default: the configuration's alone."""
    predict_width: int = 0
    """Extrapolate the largest attention logits to this width; 0: to none."""
    out: str = "runs/sweep"
    """Directory of the cells, the table and the figure."""


def sweep(flags: Flags) -> str:
    """Run a sweep and write its table and figure.

    Returns:
      The table.

    Raises:
      ConfigError, DataError: naming what is wrong and what would be right.
    """
    config = config_of(flags)
    if config.run_dir is not None:
        raise ConfigError(f"--run-dir={config.run_dir}: a sweep's directory is --out")
    rates = _numbers("--rates", flags.rates, kind=float)
    if not rates:
        raise ConfigError("--rates: needs one learning rate at least")
    widths = _numbers("--widths", flags.widths, kind=int)
    if not config.stability.every:
        every = max(1, config.steps // READINGS)
        config = dataclasses.replace(config, stability=StabilityConfig(every=every))
    larger = None
    if flags.predict_width:
        larger = _count(config, flags.predict_width)
    out = Path(flags.out)
    grid = run_grid(
        config,
        rates=rates,
        widths=widths or [config.model.d_model],
        path=out / "cells.jsonl",
        say=lambda line: print(line, flush=True),
    )
    table = tabulate(grid, larger=larger)
    replace_file(out / "sweep.md", table.encode())
    replace_file(out / "sweep.svg", draw(grid))
    return table


def tabulate(grid: Grid, *, larger: int | None) -> str:
    """Write a grid as Markdown: losses, sensitivities, attention logits.

    Args:
      grid: the cells.
      larger: parameters, outside embedding and head, of a model to extrapolate the
        logits to; None for none.
    """
    widths = [f"width {width}" for width in grid]
    parts = [
        ("Held-out loss, nats per token", ["learning rate", *widths], _losses(grid)),
        ("By width", ["", *widths], _by_width(grid)),
        _logits(grid, larger=larger),
    ]
    return "\n".join(
        f"{title}\n\n" + _markdown(head, rows) for title, head, rows in parts
    )


def draw(grid: Grid) -> bytes:
    """Draw losses and attention logits over the learning rate, as SVG.

    A run that ended above its initial loss, or diverged, stands at the initial loss.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    for width, cells in grid.items():
        losses = [cap_loss(cell) for cell in cells.values()]
        logits = [cell.measures[MAX_LOGIT] for cell in cells.values()]
        left.plot(list(cells), losses, marker="o", label=f"width {width}")
        right.plot(list(cells), logits, marker="o")
    left.set(xscale="log", xlabel="learning rate", ylabel="held-out loss (nats)")
    right.set(xscale="log", yscale="log", xlabel="learning rate")
    right.set(ylabel="largest attention logit")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    made = io.BytesIO()
    figure.savefig(made, format="svg", metadata={"Date": None})
    return made.getvalue()


def _losses(grid: Grid) -> list[list[str]]:
    return [
        [
            f"{rate:g}",
            *(format_loss(cells[rate].measures[LOSS]) for cells in grid.values()),
        ]
        for rate in next(iter(grid.values()))
    ]


def _by_width(grid: Grid) -> list[list[str]]:
    first = [next(iter(cells.values())) for cells in grid.values()]
    sizes = [int(cell.measures[PARAMETERS]) for cell in first]
    rows = [["parameters outside embedding and head", *map(format_count, sizes)]]
    if found := measure_sensitivities(grid).values():
        rows.append(["sensitivity", *(format_loss(each.value) for each in found)])
        rows.append(["best learning rate", *(f"{each.best_rate:g}" for each in found)])
    return rows


def _logits(
    grid: Grid, *, larger: int | None
) -> tuple[str, list[str], list[list[str]]]:
    """Write each rate's logits, their power of the size, and where it leads."""
    growths = fit_growths(grid)
    head = ["learning rate", *(f"width {width}" for width in grid)]
    if growths:
        head.append("power")
    if growths and larger is not None:
        head.append(f"at {format_count(larger)} parameters")
    rows = []
    for rate in next(iter(grid.values())):
        logits = [cells[rate].measures[MAX_LOGIT] for cells in grid.values()]
        row = [f"{rate:g}", *map(format_number, logits)]
        if rate in growths:
            row.append(f"{growths[rate].exponent:.2f}")
            if larger is not None:
                row.append(format_number(predict_max_logit(growths[rate], larger)))
        rows.append(row + [""] * (len(head) - len(row)))
    return "Largest attention logit", head, rows


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
                f"{flag}={text}: {word!r} is no positive {kind.__name__}; write "
                "numbers with commas"
            )
        if number in numbers:
            raise ConfigError(f"{flag}={text}: {word} is there twice")
        numbers.append(number)
    return numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        print(sweep(parse_run_flags(Flags, words, program=PROGRAM)))
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
