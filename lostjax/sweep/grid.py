"""A grid of short runs, learning rates x widths, and what it says of larger models.

How far the final loss depends on the learning rate, by width; and how the largest
attention logit grows with the model, by learning rate. Both are explained, with their
paper, in `lostjax.analysis.stability`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lostjax.analysis import (
    LogitGrowth,
    Sensitivity,
    fit_logit_growth,
    learning_rate_sensitivity,
)
from lostjax.sweep.cell_file import Cell, CellFile
from lostjax.sweep.cells import LOSS, PARAMETERS, run_cell
from lostjax.train.config.checks import check_config
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.widths import at_width
from lostjax.train.trial import Trial

INITIAL_LOSS = "initial_loss"
MAX_LOGIT = "max_attention_logit"
"""Names of what a cell has here besides its final losses."""

Grid = Mapping[int, Mapping[float, Cell]]
"""Cells by width, then by learning rate, both rising; every width has all rates."""


def run_grid(
    config: TrainConfig,
    *,
    rates: Sequence[float],
    widths: Sequence[int],
    path: Path,
    say: Callable[[str], None],
) -> Grid:
    """Train, or read, every cell.

    Args:
      config: what is trained, but for its learning rate and width.
      rates: peak learning rates.
      widths: of the residual stream.
      path: of the file of cells.
      say: takes a line for each finished cell.

    Returns:
      The cells.

    Raises:
      ConfigError: before the first run, where one of them cannot be.
    """
    configs = {
        (width, rate): configure_cell(config, width=width, rate=rate)
        for width in sorted(widths)
        for rate in sorted(rates)
    }
    for cell in configs.values():
        check_config(cell)
    cells = CellFile(path)
    for line in cells.damage:
        say(line)
    grid: dict[int, dict[float, Cell]] = {width: {} for width, _ in configs}
    for number, ((width, rate), cell) in enumerate(configs.items(), 1):
        grid[width][rate] = made = run_cell(
            f"width{width}", cell, cells=cells, measures=MEASURES
        )
        say(
            f"{number}/{len(configs)}  width {width}  learning rate {rate:g}  "
            f"held-out loss {made.measures[LOSS]:.3f}"
        )
    return grid


def configure_cell(config: TrainConfig, *, width: int, rate: float) -> TrainConfig:
    """Give a configuration the width and the learning rate of a cell."""
    return dataclasses.replace(
        config,
        model=at_width(config.model, width),
        optim=dataclasses.replace(config.optim, learning_rate=rate),
    )


def measure_sensitivities(grid: Grid) -> dict[int, Sensitivity]:
    """Measure the learning-rate sensitivity of every width; of none for one rate."""
    return {
        width: measure_sensitivity(cells)
        for width, cells in grid.items()
        if len(cells) > 1
    }


def measure_sensitivity(cells: Mapping[float, Cell]) -> Sensitivity:
    """Measure the learning-rate sensitivity of one model.

    Args:
      cells: by learning rate; of one seed, so that all have the same initial loss,
        which they hold as `INITIAL_LOSS`.
    """
    return learning_rate_sensitivity(
        list(cells),
        [cell.measures[LOSS] for cell in cells.values()],
        initial_loss=next(iter(cells.values())).measures[INITIAL_LOSS],
    )


def cap_loss(cell: Cell) -> float:
    """Give a cell's loss as the sensitivity counts it: the initial one at most."""
    loss, initial = cell.measures[LOSS], cell.measures[INITIAL_LOSS]
    return loss if loss < initial else initial  # NaN is not less


def measure_initial_loss(trial: Trial) -> float:
    """Give the training loss of the first step, before any update, nats per token."""
    return trial.losses[0]


def measure_attention_logit(trial: Trial) -> float:
    """Give the largest attention logit of the watched steps; NaN where none was."""
    logit = trial.max_attention_logit
    return math.nan if logit is None else logit


MEASURES = {INITIAL_LOSS: measure_initial_loss, MAX_LOGIT: measure_attention_logit}
"""What is read off a cell's run, by name."""


def fit_growths(grid: Grid) -> dict[float, LogitGrowth]:
    """Fit the largest attention logit's growth over widths, at every learning rate.

    Of none for one width; a rate at which some logit is not finite is left out.
    """
    growths = {}
    for rate in next(iter(grid.values())):
        column = [cells[rate] for cells in grid.values()]
        logits = [cell.measures[MAX_LOGIT] for cell in column]
        if len(column) > 1 and all(0 < logit < math.inf for logit in logits):
            sizes = [int(cell.measures[PARAMETERS]) for cell in column]
            growths[rate] = fit_logit_growth(sizes, logits)
    return growths
