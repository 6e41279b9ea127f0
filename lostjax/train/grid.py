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
from lostjax.train.cells import Cell, run_cell
from lostjax.train.checks import check_config
from lostjax.train.config import TrainConfig
from lostjax.train.widths import at_width

Grid = Mapping[int, Mapping[float, Cell]]
"""Cells by width, then by learning rate, both rising; every width has all rates."""


def run_grid(
    config: TrainConfig,
    *,
    rates: Sequence[float],
    widths: Sequence[int],
    directory: Path,
    say: Callable[[str], None],
) -> Grid:
    """Train, or read, every cell.

    Args:
      config: what is trained, but for its learning rate and width.
      rates: peak learning rates.
      widths: of the residual stream.
      directory: of the cells.
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
    grid: dict[int, dict[float, Cell]] = {width: {} for width, _ in configs}
    for number, ((width, rate), cell) in enumerate(configs.items(), 1):
        grid[width][rate] = made = run_cell(cell, directory=directory)
        say(
            f"{number}/{len(configs)}  width {width}  learning rate {rate:g}  "
            f"held-out loss {made.loss:.3f}"
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
        width: learning_rate_sensitivity(
            list(cells),
            [cell.loss for cell in cells.values()],
            initial_loss=next(iter(cells.values())).initial_loss,
        )
        for width, cells in grid.items()
        if len(cells) > 1
    }


def fit_growths(grid: Grid) -> dict[float, LogitGrowth]:
    """Fit the largest attention logit's growth over widths, at every learning rate.

    Of none for one width; a rate at which some logit is not finite is left out.
    """
    growths = {}
    for rate in next(iter(grid.values())):
        column = [cells[rate] for cells in grid.values()]
        logits = [cell.max_attention_logit for cell in column]
        if len(column) > 1 and all(0 < logit < math.inf for logit in logits):
            sizes = [cell.parameters for cell in column]
            growths[rate] = fit_logit_growth(sizes, logits)
    return growths
