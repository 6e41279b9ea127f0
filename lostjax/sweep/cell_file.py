"""A file of cells: short runs of sweeps and experiments, each trained once and kept.

A file has one JSON line a cell and is only appended to. A cell has a name to find it
by, such as `lost-lr0.004-seed0`, and the fields that decided its numbers. It is used
for a configuration if the two agree: every field in the cell has today's value, and
every field that the cell lacks, because it is older, is at its default today. If they
do not, the cell is trained again and the reason is printed; of several lines with one
name the last counts.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lostjax.disk.records import append_record, read_records
from lostjax.train.config.fields import RENAMED_FIELDS


class Made(NamedTuple):
    """When, where and by what a cell was trained."""

    date: str
    """Year-month-day, UTC."""
    machine: str
    """Processor and system."""
    jax: str
    """Version."""
    seconds: float
    """With compiling and evaluation: of the CPU, or of the clock if it is a language
    model's."""


class Cell(NamedTuple):
    """One trained configuration. A number that diverged is NaN here, null in the file.

    Cells compare unequal if they hold NaN.
    """

    name: str
    """`lost-no-activation-lr0.004-seed0`."""
    method: str
    """What was trained, without learning rate and seed: `LOST`, `width128`."""
    configuration: dict[str, Any]
    """The fields that decide its numbers, by dotted name."""
    measures: Mapping[str, float]
    """What it came to, by name."""
    made: Made
    losses: tuple[float, ...] = ()
    """Training loss of evenly spaced steps, nats per token, of a language model."""


class CellFile:
    """The cells in a file, as they were when it was opened and as they are added.

    Args:
      path: of the file, which may be missing.

    Raises:
      OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where it is."""
        self.damage: list[str] = []
        """A message for each line that is not a cell, and for cells of older versions
        beside the file."""
        self._cells: dict[str, Cell] = {}
        for number, value in read_records(path):
            try:
                cell = _from_json(value)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self.damage.append(
                    f"{path}, line {number}: not a cell ({error!r}); remove the line"
                )
            else:
                self._cells[cell.name] = cell
        if path.with_suffix("").is_dir():
            self.damage.append(
                f"{path.with_suffix('')}: cells of an older version, one a file, are "
                f"not read; those of today are in {path.name}"
            )

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def find(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any],
        measures: Iterable[str] = (),
    ) -> Cell | None:
        """Find a cell and check that it is the one that is wanted.

        Args:
          name: of the cell.
          fields: the wanted configuration, by dotted name.
          defaults: values of fields that the cell, being older, may lack.
          measures: that the cell must have.

        Returns:
          The cell; None if there is none, or if it differs, which is printed.
        """
        cell = self._cells.get(name)
        if cell is None:
            return None
        reasons = find_differences(cell.configuration, fields, defaults=defaults)
        reasons += [
            f"no {name} there" for name in measures if name not in cell.measures
        ]
        if reasons:
            say(f"{name} is trained again: {'; '.join(reasons)}")
            return None
        return cell

    def add(self, cell: Cell) -> None:
        """Append a cell.

        Raises:
          OSError: if it cannot be written; the file has what it had before.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_record(self.path, _to_json(cell))
        self._cells[cell.name] = cell


def name_cell(method: str, *, rate: float | None, seed: int) -> str:
    """Name a cell, such as `lost-no-activation-lr0.004-seed0`."""
    at_rate = "" if rate is None else f"-lr{rate!r}"
    return f"{slug(method)}{at_rate}-seed{seed}"


def slug(method: str) -> str:
    """Write a method's name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")


def find_differences(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
) -> list[str]:
    """List why a stored configuration is not the one that is wanted.

    Args:
      stored: a cell's `configuration`, perhaps older than some field.
      wanted: today's configuration.
      defaults: values of the fields that the stored one may lack.

    Returns:
      Lines such as `model.rank: 32 there, 64 now`; empty if the two agree.
    """
    known = {RENAMED_FIELDS.get(name, name): value for name, value in stored.items()}
    before = {**defaults, **known}
    return [
        f"{name}: {before.get(name)} there, {wanted.get(name, 'no such field')} now"
        for name in before | dict(wanted)
        if name not in wanted or name not in before or before[name] != wanted[name]
    ]


def say(line: str) -> None:
    """Print how hours of training proceed on standard error."""
    print(line, file=sys.stderr, flush=True)


def _from_json(values: Any) -> Cell:
    cell = Cell(**values | {"made": Made(**values["made"])})
    return cell._replace(
        configuration=dict(cell.configuration),
        measures={name: _or_nan(value) for name, value in cell.measures.items()},
        losses=tuple(map(_or_nan, cell.losses)),
    )


def _to_json(cell: Cell) -> dict[str, Any]:
    return cell._asdict() | {
        "measures": {name: _or_none(value) for name, value in cell.measures.items()},
        "made": cell.made._asdict(),
        "losses": [_or_none(loss) for loss in cell.losses],
    }


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
