"""Cells: single short runs, each trained once and kept as JSON.

A cell's file is named by a hash of its configuration, so a table that was interrupted
goes on where it stopped, and a changed setting is a new cell. A sweep trains seed 0
over a grid of learning rates that doubles; where the best lies at an edge the grid is
widened there until it does not.
"""

import dataclasses
import json
import math
from pathlib import Path

import xxhash

from lostjax.repro.claims import Row
from lostjax.train.config import TrainConfig
from lostjax.train.files import replace_file
from lostjax.train.trial import run_trial

MAX_WIDENINGS = 6


def run_cell(config: TrainConfig, *, directory: Path) -> dict[str, object]:
    """Train one configuration, or read what it came to before.

    Returns:
      `configuration`, `parameters`, `losses` (of 20 evenly spaced steps),
      `bits_per_byte`, `loss`.
    """
    values = dataclasses.asdict(config)
    values["data"]["cache_dir"] = None
    text = json.dumps(values, sort_keys=True)
    path = directory / f"{xxhash.xxh3_64_hexdigest(text.encode())}.json"
    if path.exists():
        stored: dict[str, object] = json.loads(path.read_text())
        return stored
    trial = run_trial(config)
    every = max(1, len(trial.losses) // 20)
    cell: dict[str, object] = {
        "configuration": values,
        "parameters": trial.parameters,
        "losses": [round(loss, 5) for loss in trial.losses[every - 1 :: every]],
        "loss": trial.evaluation.loss,
        "bits_per_byte": trial.evaluation.bits_per_byte,
    }
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(cell, indent=1) + "\n").encode())
    return cell


def tune_method(
    method: str,
    config: TrainConfig,
    *,
    rates: tuple[float, ...],
    seeds: int,
    directory: Path,
) -> Row:
    """Sweep the learning rate on seed 0, then repeat the best one on other seeds.

    Args:
      method: its name in the table.
      config: what is trained, but for learning rate and seed.
      rates: grid of learning rates in rising order, each twice the one before.
      seeds: how many, from 0.
      directory: of the cells.

    Returns:
      The row.

    Raises:
      RuntimeError: where the best rate still lies at an edge after widening.
    """

    def bits(rate: float, seed: int) -> tuple[float, int]:
        optim = dataclasses.replace(config.optim, learning_rate=rate)
        cell = run_cell(
            dataclasses.replace(config, optim=optim, seed=seed), directory=directory
        )
        value, parameters = cell["bits_per_byte"], cell["parameters"]
        assert isinstance(value, float) and isinstance(parameters, int)
        return value, parameters

    swept = {rate: bits(rate, 0)[0] for rate in rates}
    for _ in range(MAX_WIDENINGS):
        best = min(swept, key=lambda rate: _worst_if_nan(swept[rate]))
        if best == min(swept):
            new = best / 2
        elif best == max(swept):
            new = best * 2
        else:
            break
        swept[new] = bits(new, 0)[0]
    else:
        raise RuntimeError(f"{method}: the best learning rate stays at the grid's edge")
    cells = [bits(best, seed) for seed in range(seeds)]
    return Row(
        method=method,
        parameters=cells[0][1],
        learning_rate=best,
        swept=dict(sorted(swept.items())),
        values=tuple(value for value, _ in cells),
    )


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
