"""From runs at learning rates to a method's row: tunings, one of which a paper names.

A tuned method has the best of a grid of learning rates that doubles. If the best lies
at an edge the grid is widened there until it does not. Then the grid is refined once
around the best, by the square root of two.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from lostjax.repro.rows import Row
from lostjax.sweep.cell_file import Cell

MAX_WIDENINGS = 9

Run = Callable[[float | None, Sequence[int]], Sequence[Cell]]
"""From a learning rate (None: there is none) and seeds to a cell a seed."""

Grids = Sequence[Mapping[float, Cell]]
"""Of every seed, its cells by learning rate, rising."""


class SweepError(RuntimeError):
    """The best learning rate of a method was not found: its row would be void."""


@runtime_checkable
class FindRow(Protocol):
    """Runs a method until its row is known."""

    def __call__(
        self,
        run: Run,
        *,
        method: str,
        rates: Sequence[float],
        seeds: int,
        measures: Sequence[str],
    ) -> Row:
        """Find a row.

        Args:
          run: of the method.
          method: its name.
          rates: grid of learning rates in rising order.
          seeds: how many a row has.
          measures: names of the row's measures, the first to tune by.

        Returns:
          The row, without facts.

        Raises:
          SweepError: if the best rate lies at an edge even after widening.
        """


class Tuning(NamedTuple):
    """How the learning rate of each method is chosen."""

    find_row: FindRow
    sentence: str
    """Says it to readers of the page."""


def find_best_rate(
    measure: Callable[[float], float], *, rates: Sequence[float], method: str
) -> float:
    """Find the best learning rate, with a worse one on either side of it.

    Args:
      measure: of a rate, less is better; NaN if it diverges.
      rates: grid in rising order, each twice the one before.
      method: its name, for the message.

    Raises:
      SweepError: if the best rate lies at an edge even after widening.
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
            f"{method}: the best learning rate stays at the edge of its grid "
            f"({best():g})"
        )
    for new in (best() / 2**0.5, best() * 2**0.5):
        short = float(f"{new:.2g}")  # two digits, as a person would write it
        swept[short] = measure(short)
    return best()


def tune_apart(*apart: str) -> Tuning:
    """Tune by the mean over all seeds; some measures each for themselves.

    Args:
      apart: names of measures that are taken at the rate that is best for them.
    """
    own = f"; {' and '.join(apart)}: at the rate that is best for it alone"
    return Tuning(
        partial(_tune_by_mean, apart=apart),
        "The learning rate of each method is the best of a grid that doubles and is "
        "refined once around its best, by the mean over all seeds, with worse ones on "
        f"either side{own if apart else ''}.",
    )


def use_whole_grid(
    summarise: Callable[[Grids], Mapping[str, tuple[float, ...]]],
    *,
    loss: Callable[[Cell], float],
) -> Tuning:
    """Tune nothing: run every seed at every rate, and measure whole grids.

    Args:
      summarise: from grids to the row's measures, a value a seed.
      loss: of a cell; the best rate has the least mean of it.
    """
    return Tuning(
        partial(_use_whole_grid, summarise=summarise, loss=loss),
        "Every seed is run at every learning rate; the best has the least mean loss.",
    )


def make_row(
    method: str,
    cells: Sequence[Cell],
    *,
    measures: Sequence[str],
    learning_rate: float | None = None,
    swept: Mapping[float, float] | None = None,
) -> Row:
    """Collect the measures of a method's cells, one a seed."""
    return Row(
        method=method,
        facts={},
        learning_rate=learning_rate,
        swept=dict(swept or {}),
        measures={
            name: tuple(cell.measures[name] for cell in cells) for name in measures
        },
    )


def _tune_on_first_seed(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
) -> Row:
    swept: dict[float, float] = {}

    def measure(rate: float) -> float:
        (cell,) = run(rate, [0])
        swept[rate] = cell.measures[measures[0]]
        return swept[rate]

    best = find_best_rate(measure, rates=rates, method=method)
    return make_row(
        method,
        run(best, range(seeds)),
        measures=measures,
        learning_rate=best,
        swept=dict(sorted(swept.items())),
    )


def _tune_by_mean(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
    apart: Sequence[str],
) -> Row:
    def tune(names: Sequence[str]) -> Row:
        swept: dict[float, float] = {}

        def measure(rate: float) -> float:
            cells = run(rate, range(seeds))
            swept[rate] = float(np.mean([cell.measures[names[0]] for cell in cells]))
            return swept[rate]

        best = find_best_rate(measure, rates=rates, method=method)
        return make_row(
            method,
            run(best, range(seeds)),
            measures=names,
            learning_rate=best,
            swept=dict(sorted(swept.items())),
        )

    row = tune(measures)
    own = {name: tune([name]).measures[name] for name in apart}
    return row._replace(measures=row.measures | own)


def _use_whole_grid(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
    summarise: Callable[[Grids], Mapping[str, tuple[float, ...]]],
    loss: Callable[[Cell], float],
) -> Row:
    by_rate = {rate: run(rate, range(seeds)) for rate in rates}
    swept = {
        rate: float(np.mean([loss(cell) for cell in cells]))
        for rate, cells in by_rate.items()
    }
    grids = [
        {rate: cells[seed] for rate, cells in by_rate.items()} for seed in range(seeds)
    ]
    found = summarise(grids)
    return Row(
        method=method,
        facts={},
        learning_rate=min(swept, key=swept.__getitem__),
        swept=swept,
        measures={name: found[name] for name in measures},
    )


def _run_once(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
) -> Row:
    if rates:
        raise ValueError(f"{method}: learning rates, but a tuning without any")
    return make_row(method, run(None, range(seeds)), measures=measures)


def _worst_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


TUNE_ON_FIRST_SEED = Tuning(
    _tune_on_first_seed,
    "The learning rate of each method is the best of a grid that doubles and is "
    "refined once around its best, on seed 0, with worse ones on either side.",
)
"""For runs of minutes: the other seeds are run at the best rate alone."""

TUNE_BY_MEAN = tune_apart()
"""For runs of seconds: every seed is run at every rate."""

WITHOUT_RATE = Tuning(_run_once, "")
"""For what has no learning rate: closed forms, fits, simulations."""
