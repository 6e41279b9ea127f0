"""Train a grid of short runs, learning rates x widths, to predict larger models.

Two quantities are measured: by width, how strongly the final loss depends on the
learning rate; and by learning rate, how the largest attention logit grows with the
model. `lostjax.analysis.stability` defines both and cites their paper.
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
"""Name of the measure that `measure_initial_loss` computes."""
MAX_LOGIT = "max_attention_logit"
"""Name of the measure that `measure_attention_logit` computes."""

Grid = Mapping[int, Mapping[float, Cell]]
"""Cells by width, then by learning rate, both ascending; every width has all rates."""


def run_grid(
    config: TrainConfig,
    *,
    rates: Sequence[float],
    widths: Sequence[int],
    path: Path,
    say: Callable[[str], None],
) -> Grid:
    """Train every cell, or read it if it was trained before.

    Args:
      config: the configuration whose width and learning rate are varied.
      rates: peak learning rates.
      widths: widths of the residual stream.
      path: the file of the cells.
      say: called with a line of text for each finished cell.

    Returns:
      The cells.

    Raises:
      ConfigError: before the first run, if the configuration of a cell is wrong.
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
    """Return a configuration with the width and the learning rate of a cell."""
    return dataclasses.replace(
        config,
        model=at_width(config.model, width),
        optim=dataclasses.replace(config.optim, learning_rate=rate),
    )


def measure_sensitivities(grid: Grid) -> dict[int, Sensitivity]:
    """Measure the learning-rate sensitivity of every width; {} with a single rate."""
    return {
        width: measure_sensitivity(cells)
        for width, cells in grid.items()
        if len(cells) > 1
    }


def measure_sensitivity(cells: Mapping[float, Cell]) -> Sensitivity:
    """Measure the learning-rate sensitivity of one model.

    Args:
      cells: cells by learning rate, of one seed, so that all have the same initial
        loss, in their measure `INITIAL_LOSS`.
    """
    return learning_rate_sensitivity(
        list(cells),
        [cell.measures[LOSS] for cell in cells.values()],
        initial_loss=next(iter(cells.values())).measures[INITIAL_LOSS],
    )


def cap_loss(cell: Cell) -> float:
    """Return a cell's loss, limited to its initial loss, as the sensitivity uses it."""
    loss, initial = cell.measures[LOSS], cell.measures[INITIAL_LOSS]
    # Not min(): this returns the initial loss for NaN too.
    return loss if loss < initial else initial


def measure_initial_loss(trial: Trial) -> float:
    """Return the training loss of the first step, before any update, nats per token."""
    return trial.losses[0]


def measure_attention_logit(trial: Trial) -> float:
    """Return the largest attention logit of the watched steps; NaN without any."""
    logit = trial.max_attention_logit
    return math.nan if logit is None else logit


MEASURES = {INITIAL_LOSS: measure_initial_loss, MAX_LOGIT: measure_attention_logit}
"""Measures of a cell's run by name."""


def fit_growths(grid: Grid) -> dict[float, LogitGrowth]:
    """Fit the growth of the largest attention logit over widths, by learning rate.

    Returns:
      Fits by learning rate, without the rates at which a logit is not positive and
      finite; {} with a single width.
    """
    growths = {}
    for rate in next(iter(grid.values())):
        column = [cells[rate] for cells in grid.values()]
        logits = [cell.measures[MAX_LOGIT] for cell in column]
        if len(column) > 1 and all(0 < logit < math.inf for logit in logits):
            sizes = [int(cell.measures[PARAMETERS]) for cell in column]
            growths[rate] = fit_logit_growth(sizes, logits)
    return growths
