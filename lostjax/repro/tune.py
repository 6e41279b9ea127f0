"""Methods tuned alike: a sweep of the learning rate, then seeds at the best of it.

A sweep trains seed 0 over a grid of learning rates that doubles; where the best lies at
an edge the grid is widened there until it does not. Then it is refined once around the
best, by the square root of two.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lostjax.repro.claims import BITS, Cost, Row
from lostjax.repro.workers import map_on_cores
from lostjax.sweep.cells import Cell, Measure, run_cell, slug
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import TrainConfig

MAX_WIDENINGS = 6


class SweepError(RuntimeError):
    """A method whose best learning rate was not found: its row would be void."""


class Scale(NamedTuple):
    """How large an experiment is."""

    name: str
    config: TrainConfig
    """The method in question; the others are derived from it."""
    rates: tuple[float, ...]
    """Grid of learning rates in rising order."""
    methods: tuple[str, ...]
    """Which rows are measured."""


class Measured(NamedTuple):
    """What the methods came to, and what that took."""

    rows: tuple[Row, ...]
    cost: Cost


def measure_methods(
    methods: Mapping[str, TrainConfig],
    *,
    rates: tuple[float, ...],
    seeds: int,
    directory: Path,
    workers: int,
    measures: Mapping[str, Measure] = MappingProxyType({}),
    own_measures: Mapping[str, Mapping[str, Measure]] = MappingProxyType({}),
) -> Measured:
    """Tune every method and repeat it at its best learning rate.

    Args:
      methods: what is trained, but for learning rate and seed, by name.
      rates: grid of learning rates in rising order, each twice the one before.
      seeds: how many a row, at least 2.
      directory: where cells are kept and found.
      workers: methods that train at once, each on one CPU core.
      measures: what a row has besides bits per byte, by name; top-level functions, so
        that they can be sent to workers.
      own_measures: by method, what takes the place of measures of that name. For
        `claims.BITS` it is what learning rates are chosen by, too.

    Returns:
      A row a method, in their order.

    Raises:
      SweepError: where some best rate still lies at an edge after widening.
    """
    assert len({slug(name) for name in methods}) == len(methods), "names collide"
    tune = partial(
        _tune,
        rates=rates,
        seeds=seeds,
        directory=directory,
        measures={name: {**measures, **own_measures.get(name, {})} for name in methods},
    )
    found = map_on_cores(tune, methods.items(), workers=workers)
    cells = [cell for _, made in found for cell in made]
    return Measured(rows=tuple(row for row, _ in found), cost=add_costs(cells))


def add_costs(cells: Sequence[Cell]) -> Cost:
    """Add up what cells took."""
    return Cost(
        runs=len(cells),
        tokens=sum(_tokens(cell) for cell in cells),
        seconds=round(sum(cell.made.seconds for cell in cells)),
        machines=tuple(sorted({_place(cell) for cell in cells})),
    )


def find_best_rate(
    measure: Callable[[float], float], *, rates: Sequence[float], name: str
) -> float:
    """Find the best learning rate, with a worse one on either side of it.

    Args:
      measure: of a rate, less is better; NaN where it diverges.
      rates: grid in rising order, each twice the one before.
      name: of the method, for the message.

    Raises:
      SweepError: where the best rate still lies at an edge after widening.
    """
    swept = {rate: measure(rate) for rate in rates}

    def best() -> float:
        return min(swept, key=lambda rate: _worst_if_nan(swept[rate]))

    for _ in range(MAX_WIDENINGS):
        if min(swept) < best() < max(swept):
            break
        new = best() / 2 if best() == min(swept) else best() * 2
        swept[new] = measure(new)
    if not min(swept) < best() < max(swept):
        raise SweepError(
            f"{name}: the best learning rate stays at the edge of its grid ({best():g})"
        )
    for new in (best() / 2**0.5, best() * 2**0.5):
        short = float(f"{new:.2g}")  # two digits, as a person would write it
        swept[short] = measure(short)
    return best()


def tune_by_mean(
    name: str,
    measure: Callable[[float], Mapping[str, tuple[float, ...]]],
    *,
    rates: Sequence[float],
) -> Row:
    """Tune a method whose runs are not worth keeping, over all its seeds at once.

    Args:
      name: of the method.
      measure: from a learning rate to the row's measures, a value a seed; NaN where
        one diverged. Rates are compared by the mean of the first.
      rates: grid in rising order, each twice the one before.

    Returns:
      The method's row.

    Raises:
      SweepError: where the best rate still lies at an edge after widening.
    """
    tried: dict[float, Mapping[str, tuple[float, ...]]] = {}

    def mean(rate: float) -> float:
        return float(np.mean(next(iter(tried[rate].values()))))

    def try_rate(rate: float) -> float:
        tried[rate] = measure(rate)
        return mean(rate)

    best = find_best_rate(try_rate, rates=rates, name=name)
    return Row(
        method=name,
        facts={},
        learning_rate=best,
        swept={rate: mean(rate) for rate in sorted(tried)},
        measures=dict(tried[best]),
    )


def describe_setting(config: TrainConfig) -> str:
    """Say what model is trained on what, and how it is tuned."""
    return (
        f"{describe_runs(config)} The learning rate of each method is the best "
        "of a grid that doubles and is refined once around its best, on seed 0, with "
        "worse ones on either side."
    )


def describe_runs(config: TrainConfig) -> str:
    """Say what model is trained on what, in a sentence."""
    model, data = config.model, config.data
    return (
        f"Every run: {model.n_layers} layers of width {model.d_model}, text "
        f"`{data.source}`, tokenizer `{data.tokenizer}`, {count_tokens(config):,} "
        f"tokens in {config.steps} steps."
    )


def configure_cell(config: TrainConfig, *, rate: float, seed: int) -> TrainConfig:
    """Give a configuration a learning rate and a seed."""
    changed = replace_in(config, "optim", learning_rate=rate)
    return dataclasses.replace(changed, seed=seed)


def count_tokens(config: TrainConfig) -> int:
    """Count the tokens that a run is trained on."""
    return config.steps * config.batch_size * config.data.seq_len


def _tune(
    method: tuple[str, TrainConfig],
    *,
    rates: tuple[float, ...],
    seeds: int,
    directory: Path,
    measures: Mapping[str, Mapping[str, Measure]],
) -> tuple[Row, list[Cell]]:
    """Give a method's row, and every cell that went into it."""
    name, config = method
    others = [measure for measure in measures[name] if measure != BITS]
    cells: dict[tuple[float, int], Cell] = {}

    def train(rate: float, seed: int) -> Cell:
        at = configure_cell(config, rate=rate, seed=seed)
        if (rate, seed) not in cells:
            cells[rate, seed] = run_cell(
                name, at, directory=directory, measures=measures[name]
            )
        return cells[rate, seed]

    best = find_best_rate(lambda rate: _bits(train(rate, 0)), rates=rates, name=name)
    swept = {rate: _bits(cells[rate, 0]) for rate, _ in sorted(cells)}
    repeated = [train(best, seed) for seed in range(seeds)]
    row = Row(
        method=name,
        facts={"parameters": repeated[0].parameters},
        learning_rate=best,
        swept=swept,
        measures={BITS: tuple(_bits(cell) for cell in repeated)}
        | {
            measure: tuple(cell.measures[measure] for cell in repeated)
            for measure in others
        },
    )
    return row, list(cells.values())


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _bits(cell: Cell) -> float:
    """Give what a cell is judged by."""
    return cell.measures.get(BITS, cell.bits_per_byte)


def _tokens(cell: Cell) -> int:
    fields = cell.configuration
    tokens: int = fields["steps"] * fields["batch_size"] * fields["data.seq_len"]
    return tokens


def _place(cell: Cell) -> str:
    return f"{cell.made.machine}, jax {cell.made.jax}"
