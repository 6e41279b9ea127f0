"""A method's runs: cells that are found, or trained and kept.

A language model is a `TrainConfig`, trained one seed at a time by the trainer's own
programs. Anything else is a frozen dataclass with a function that trains it on several
seeds at once, or on each of them (`each_seed`).
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lostjax.repro.tune import Run
from lostjax.sweep.cell_file import Cell, CellFile, name_cell
from lostjax.sweep.cells import Measure, describe_making, run_cell
from lostjax.train.config.fields import flat_fields, replace_in
from lostjax.train.config.schema import TrainConfig


@runtime_checkable
class Train(Protocol):
    """Trains, or simulates, a configuration on seeds."""

    def __call__(
        self, config: Any, *, learning_rate: float | None, seeds: Sequence[int]
    ) -> Mapping[str, Sequence[float]]:
        """Compute the measures, a value a seed each; NaN if a run diverged.

        Args:
          config: a method's.
          learning_rate: at which; None in an experiment without any.
          seeds: of the data, the start, and whatever else is random.
        """


def each_seed(train: Callable[[Any, float | None, int], Mapping[str, float]]) -> Train:
    """Train on several seeds by a function (config, learning rate, seed) of one."""

    def train_each(
        config: Any, *, learning_rate: float | None, seeds: Sequence[int]
    ) -> dict[str, list[float]]:
        found = [train(config, learning_rate, seed) for seed in seeds]
        return {name: [one[name] for one in found] for name in found[0]}

    return train_each


def run_language_model(
    method: str,
    config: TrainConfig,
    *,
    cells: CellFile,
    measures: Mapping[str, Measure],
) -> Run:
    """Prepare the runs of a language model.

    Args:
      method: its name.
      config: what is trained, without learning rate and seed.
      cells: where cells are found and added.
      measures: what else is read off each run.
    """

    def run(rate: float | None, seeds: Sequence[int]) -> list[Cell]:
        at = config if rate is None else replace_in(config, "optim", learning_rate=rate)
        return [
            run_cell(
                method,
                dataclasses.replace(at, seed=seed),
                cells=cells,
                measures=measures,
            )
            for seed in seeds
        ]

    return run


def run_other(method: str, config: Any, *, cells: CellFile, train: Train) -> Run:
    """Prepare the runs of whatever is no language model.

    Args:
      method: its name.
      config: a frozen dataclass of what JSON can hold.
      cells: where cells are found and added.
      train: trains seeds that are not there yet.
    """
    defaults = _default_fields(config)

    def run(rate: float | None, seeds: Sequence[int]) -> list[Cell]:
        places = {seed: {"learning_rate": rate, "seed": seed} for seed in seeds}
        found = {
            seed: cells.find(
                name_cell(method, rate=rate, seed=seed),
                _fields(config) | place,
                defaults=defaults,
            )
            for seed, place in places.items()
        }
        missing = [seed for seed, cell in found.items() if cell is None]
        began = time.process_time()  # of the CPU: other programs add nothing
        measured = train(config, learning_rate=rate, seeds=missing) if missing else {}
        seconds = (time.process_time() - began) / max(1, len(missing))
        for place, seed in enumerate(missing):
            found[seed] = cell = Cell(
                name=name_cell(method, rate=rate, seed=seed),
                method=method,
                configuration=_fields(config) | places[seed],
                measures=_read(measured, place, count=len(missing)),
                made=describe_making(seconds=seconds),
            )
            cells.add(cell)
        return [cell for cell in found.values() if cell is not None]

    return run


def describe_runs(config: TrainConfig) -> str:
    """Describe in a sentence what model is trained on what."""
    model, data = config.model, config.data
    tokens = config.steps * config.batch_size * data.seq_len
    return (
        f"Every run: {model.n_layers} layers of width {model.d_model}, text "
        f"`{data.source}`, tokenizer `{data.tokenizer}`, {tokens:,} tokens in "
        f"{config.steps} steps."
    )


def count_tokens(cell: Cell) -> int:
    """Count the tokens that a cell was trained on; 0 if it is no language model."""
    sizes = ("steps", "batch_size", "data.seq_len")
    return math.prod(int(cell.configuration.get(size, 0)) for size in sizes)


def _read(
    measured: Mapping[str, Sequence[float]], place: int, *, count: int
) -> dict[str, float]:
    """Read one seed's measures; what is not finite is NaN, as the file has it."""
    for name, values in measured.items():
        if len(values) != count:
            raise ValueError(f"{name}: {len(values)} values for {count} seeds")
    found = {name: float(values[place]) for name, values in measured.items()}
    return {
        name: value if math.isfinite(value) else math.nan
        for name, value in found.items()
    }


def _fields(config: Any) -> dict[str, Any]:
    """List a configuration's fields as JSON holds them."""
    values: dict[str, Any] = json.loads(json.dumps(flat_fields(config)))
    return values


def _default_fields(config: Any) -> dict[str, Any]:
    """List the defaults that a configuration's class has."""
    try:
        return _fields(type(config)())
    except TypeError:  # some field has none
        return {}
