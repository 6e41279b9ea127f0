"""Cells: single short runs of sweeps and claims, each trained once and kept as JSON.

A cell's file has a name to find it by, such as `lost-lr0.004-seed0.json`, and holds
the fields that decided its numbers. It stands for a configuration where the two agree:
every field in the file has today's value, and every field that the file lacks, being
younger than it, is at its default today. Any other file of that name is replaced: its
cell is trained again, and it is said why.
"""

import datetime
import json
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from lostjax.disk.files import replace_file
from lostjax.train.config.fields import deciding_fields
from lostjax.train.config.schema import TrainConfig
from lostjax.train.trial import Trial, run_trial

LOSSES = 20
"""Training losses that a cell keeps, of evenly spaced steps."""

Measure = Callable[[Trial], float]
"""Reads one more number off a finished run."""


class Made(NamedTuple):
    """When, where and by what a cell was trained."""

    date: str
    """Year-month-day, UTC."""
    machine: str
    """Processor and system."""
    jax: str
    """Version."""
    seconds: float
    """Wall-clock time, with compiling and evaluation."""


class Cell(NamedTuple):
    """One trained configuration. What diverged is NaN here and null in the file."""

    method: str
    """What was trained, but for learning rate and seed: `LOST`, `width128`."""
    configuration: dict[str, Any]
    """The fields that decide its numbers, by dotted name."""
    parameters: int
    """Trainable parameters outside embedding and head."""
    losses: tuple[float, ...]
    """Training loss of evenly spaced steps, nats per token."""
    loss: float
    """Held-out, nats per token."""
    bits_per_byte: float
    """Held-out."""
    made: Made
    measures: Mapping[str, float]
    """What else was measured, by name."""


def run_cell(
    method: str,
    config: TrainConfig,
    *,
    directory: Path,
    measures: Mapping[str, Measure] = MappingProxyType({}),
) -> Cell:
    """Train one configuration, or read what it came to before.

    Args:
      method: what is trained, but for learning rate and seed; in small letters the
        first part of its file's name.
      config: what is trained.
      directory: of the cells; made where it is missing.
      measures: what else is wanted of the run, by name; a cell without it is trained
        again.

    Returns:
      The cell, which is on disk.
    """
    path = directory / name_cell(method, config)
    if path.exists():
        try:
            cell = load_cell(path)
            reason = "; ".join(
                find_differences(cell.configuration, config)
                + [f"no {name} there" for name in measures if name not in cell.measures]
            )
        except ValueError as error:
            cell, reason = None, str(error)
        if cell is not None and not reason:
            return cell
        _say(f"{path.name} is trained again: {reason}")
    directory.mkdir(parents=True, exist_ok=True)
    cell = _train(method, config, measures)
    save_cell(path, cell)
    _say(
        f"{path.stem}: {cell.bits_per_byte:.4f} bits per byte, "
        f"{cell.made.seconds:.0f} s"
    )
    return cell


def name_cell(method: str, config: TrainConfig) -> str:
    """Name a cell's file, such as `lost-no-activation-lr0.004-seed0.json`."""
    return f"{slug(method)}-lr{config.optim.learning_rate!r}-seed{config.seed}.json"


def slug(method: str) -> str:
    """Write a method's name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")


def find_differences(stored: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """List why a stored configuration does not stand for one of today.

    Args:
      stored: a cell's `configuration`, perhaps of before some field was there.
      config: the configuration that is wanted.

    Returns:
      Lines such as `model.rank: 32 there, 64 now`; empty where the two agree.
    """
    before = _plain(TrainConfig()) | dict(stored)
    now = _plain(config)
    return [
        f"{name}: {before.get(name)} there, {now.get(name, 'no such field')} now"
        for name in before | now
        if name not in now or before[name] != now[name]
    ]


def load_cell(path: Path) -> Cell:
    """Read a cell.

    Raises:
      ValueError: where the file is not one, or not a whole one.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        extra = values.get("measures", {})  # not in the first cells
        cell = Cell(**values | {"made": Made(**values["made"]), "measures": extra})
        return cell._replace(
            configuration=dict(cell.configuration),
            losses=tuple(map(_or_nan, cell.losses)),
            loss=_or_nan(cell.loss),
            bits_per_byte=_or_nan(cell.bits_per_byte),
            measures={name: _or_nan(value) for name, value in extra.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name}: not a cell: {error!r}") from None


def save_cell(path: Path, cell: Cell) -> None:
    """Write a cell in one step."""
    values = cell._asdict() | {
        "made": cell.made._asdict(),
        "losses": [_or_none(loss) for loss in cell.losses],
        "loss": _or_none(cell.loss),
        "bits_per_byte": _or_none(cell.bits_per_byte),
        "measures": {name: _or_none(value) for name, value in cell.measures.items()},
    }
    replace_file(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def describe_machine() -> str:
    """Name the processor that trains, and the system."""
    device = jax.devices()[0]
    name = _processor() if device.platform == "cpu" else device.device_kind
    return f"{name}, {platform.system()} {platform.machine()}"


def _train(method: str, config: TrainConfig, measures: Mapping[str, Measure]) -> Cell:
    began = time.monotonic()
    trial = run_trial(config)
    measured = {name: float(measure(trial)) for name, measure in measures.items()}
    every = max(1, len(trial.losses) // LOSSES)
    return Cell(
        method=method,
        configuration=_plain(config),
        parameters=trial.parameters,
        losses=tuple(round(loss, 5) for loss in trial.losses[every - 1 :: every]),
        loss=trial.evaluation.loss,
        bits_per_byte=trial.evaluation.bits_per_byte,
        made=Made(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=describe_machine(),
            jax=jax.__version__,
            seconds=round(time.monotonic() - began, 1),
        ),
        measures=measured,
    )


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Give what decides the numbers, readings too, as JSON gives it back."""
    fields = deciding_fields(config) | {"stability.every": config.stability.every}
    values: dict[str, Any] = json.loads(json.dumps(fields))
    return values


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown processor"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _say(line: str) -> None:
    """Tell how hours of training go on, beside the output."""
    print(line, file=sys.stderr, flush=True)
