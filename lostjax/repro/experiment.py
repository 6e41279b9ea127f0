"""An experiment: a paper as data, and the engine that measures it.

A paper is one file in `lostjax/repro/papers` with an `EXPERIMENT`: its methods, what is
said of them, and what is measured. The engine tunes every method, repeats it over
seeds, keeps each run as a cell, and judges the statements.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from lostjax.errors import ConfigError, nearest_hint
from lostjax.repro.claims import Claim, Cost
from lostjax.repro.findings import UNPAIRED, Comparison, Interval, judge
from lostjax.repro.rows import Row
from lostjax.repro.runs import (
    Train,
    count_tokens,
    run_language_model,
    run_other,
)
from lostjax.repro.tune import TUNE_ON_FIRST_SEED, Tuning
from lostjax.repro.workers import map_on_cores
from lostjax.sweep.cell_file import Cell, CellFile, say, slug
from lostjax.sweep.cells import Measure

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Scale(Generic[C]):
    """How large an experiment is."""

    config: C
    """What the methods' configurations are derived from."""
    rates: tuple[float, ...] = ()
    """Grid of learning rates in rising order, each twice the one before if it is to be
    tuned; empty if there are none."""
    methods: tuple[str, ...] = ()
    """Methods that are measured; default: all."""
    own_rates: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Grids of methods whose rates are of another size, by method."""


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[C]):
    """A paper's claims and how they are measured."""

    paper: str
    """Title and arXiv id."""
    scales: Mapping[str, Scale[C]]
    """`smoke`: a minute at most, to show that it runs; `small`: what is committed."""
    methods: Callable[[Scale[C]], Mapping[str, C]]
    """From a scale to every method's configuration, without learning rate and seed:
    `TrainConfig`s, or frozen dataclasses of what JSON can hold."""
    comparisons: Sequence[Comparison]
    """What the paper says, and the controls; made if both rows are measured."""
    measures: Sequence[str]
    """Names of what a row shows, less is better: the first to tune and sort by."""
    setting: Callable[[Scale[C]], str]
    """Describes what the numbers are of, in sentences."""
    train: Train | None = None
    """Trains a configuration on seeds; None: the trainer trains language models."""
    read: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    """What is read off a language model's run besides its loss and its bits."""
    facts: Sequence[str] = ()
    """Names of measures that are the same whole number for every seed."""
    tuning: Tuning = TUNE_ON_FIRST_SEED
    swept: str = ""
    """What learning rates are compared by; default: the first measure."""
    interval: Interval = UNPAIRED
    """Of differences; `PAIRED` if a seed is a split of the data that methods share."""
    seeds: int = 5
    """Runs a row, at least 2; 3 if each trains a language model."""


def measure_claim(
    name: str,
    experiment: Experiment[Any],
    *,
    scale: str,
    seeds: int,
    cells: Path,
    workers: int = 1,
    load: Callable[[str], Experiment[Any]] | None = None,
) -> Claim:
    """Measure a paper's claim.

    Args:
      name: of the paper's file.
      experiment: what it holds.
      scale: one of its scales.
      seeds: runs a row, at least 2.
      cells: file of cells, which are found and added there.
      workers: methods that train at once, each on one CPU core.
      load: finds the experiment by its name in another process; needed for several
        workers.

    Raises:
      ConfigError: if there is no such scale.
      SweepError: if some method's best learning rate was not found.
      OSError: if cells cannot be written.
    """
    at = find_scale(experiment, scale)
    methods = experiment.methods(at)
    chosen = {method: methods[method] for method in at.methods or methods}
    if len({slug(method) for method in chosen}) < len(chosen):
        raise ValueError("two methods' names differ in punctuation alone")
    for line in CellFile(cells).damage:
        say(line)
    find = (lambda: experiment) if load is None else partial(load, name)
    measure = partial(_measure_method, find=find, at=at, seeds=seeds, path=cells)
    found = map_on_cores(measure, chosen.items(), workers=workers)
    rows = tuple(row for row, _ in found)
    return Claim(
        name=f"{name}-{scale}",
        paper=experiment.paper,
        setting=f"{experiment.setting(at)} {experiment.tuning.sentence}".strip(),
        rows=rows,
        findings=judge(rows, experiment.comparisons, interval=experiment.interval),
        cost=add_costs([cell for _, made in found for cell in made]),
        swept=experiment.swept or experiment.measures[0],
        interval=experiment.interval.name,
    )


def find_scale(experiment: Experiment[C], name: str) -> Scale[C]:
    """Find a scale by its name.

    Raises:
      ConfigError: if there is none.
    """
    if name not in experiment.scales:
        raise ConfigError(
            f"--scale={name}: must be one of {', '.join(experiment.scales)}"
            f"{nearest_hint(name, experiment.scales)}"
        )
    return experiment.scales[name]


def add_costs(cells: Sequence[Cell]) -> Cost:
    """Add up what cells took."""
    places = {f"{cell.made.machine}, jax {cell.made.jax}" for cell in cells}
    return Cost(
        runs=len(cells),
        tokens=sum(map(count_tokens, cells)),
        seconds=round(sum(cell.made.seconds for cell in cells)),
        machines=tuple(sorted(places)),
    )


def _measure_method(
    method: tuple[str, Any],
    *,
    find: Callable[[], Experiment[Any]],
    at: Scale[Any],
    seeds: int,
    path: Path,
) -> tuple[Row, list[Cell]]:
    """Find a method's row and all cells that it needed."""
    name, config = method
    experiment, cells = find(), CellFile(path)
    if experiment.train is None:
        run = run_language_model(name, config, cells=cells, measures=experiment.read)
    else:
        run = run_other(name, config, cells=cells, train=experiment.train)
    used: dict[str, Cell] = {}

    def run_and_note(rate: float | None, seeds: Sequence[int]) -> Sequence[Cell]:
        made = run(rate, seeds)
        used.update({cell.name: cell for cell in made})
        return made

    row = experiment.tuning.find_row(
        run_and_note,
        method=name,
        rates=at.own_rates.get(name, at.rates),
        seeds=seeds,
        measures=experiment.measures,
    )
    first = next(iter(used.values()))
    facts = {fact: round(first.measures[fact]) for fact in experiment.facts}
    return row._replace(facts=facts), list(used.values())
