"""Cells of language models: one short run each, and what is read off it."""

import datetime
import json
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from lostjax.sweep.cell_file import Cell, CellFile, Made, name_cell, say
from lostjax.train.config.fields import deciding_fields
from lostjax.train.config.schema import TrainConfig
from lostjax.train.trial import Trial, run_trial

PARAMETERS = "parameters"
"""Measure: trainable parameters outside embedding and head."""
LOSS = "held-out loss, nats"
"""Measure: of the last parameters, per token."""
BITS = "held-out bits per byte"
"""Measure: what a language model is judged by."""

N_LOSSES = 20
"""Training losses that a cell keeps, of evenly spaced steps."""

Measure = Callable[[Trial], float]
"""Reads one more number off a finished run."""


def run_cell(
    method: str,
    config: TrainConfig,
    *,
    cells: CellFile,
    measures: Mapping[str, Measure] = MappingProxyType({}),
) -> Cell:
    """Train one configuration of a language model, or find what it came to before.

    Args:
      method: what is trained, without learning rate and seed.
      config: what is trained.
      cells: where the cell is found or added.
      measures: what else is read off the run, by name; one called `PARAMETERS`, `LOSS`
        or `BITS` replaces the usual value. A cell without it is trained again.

    Returns:
      The cell, which is on disk.
    """
    name = name_cell(method, rate=config.optim.learning_rate, seed=config.seed)
    fields = train_fields(config)
    defaults = train_fields(TrainConfig())
    found = cells.find(name, fields, defaults=defaults, measures=measures)
    if found is not None:
        return found
    began = time.monotonic()
    trial = run_trial(config)
    every = max(1, len(trial.losses) // N_LOSSES)
    usual = {
        PARAMETERS: float(trial.parameters),
        LOSS: trial.evaluation.loss,
        BITS: trial.evaluation.bits_per_byte,
    }
    cell = Cell(
        name=name,
        method=method,
        configuration=fields,
        measures=usual | {name: float(read(trial)) for name, read in measures.items()},
        made=describe_making(seconds=time.monotonic() - began),
        losses=tuple(round(loss, 5) for loss in trial.losses[every - 1 :: every]),
    )
    cells.add(cell)
    say(f"{name}: {cell.measures[BITS]:.4f} bits per byte, {cell.made.seconds:.0f} s")
    return cell


def train_fields(config: TrainConfig) -> dict[str, Any]:
    """List, as JSON holds it, what decides a run's numbers and its readings."""
    fields = deciding_fields(config) | {"stability.every": config.stability.every}
    values: dict[str, Any] = json.loads(json.dumps(fields))
    return values


def describe_making(*, seconds: float) -> Made:
    """Describe what was trained just now and took so many seconds."""
    return Made(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=describe_machine(),
        jax=jax.__version__,
        seconds=round(seconds, 3),
    )


def describe_machine() -> str:
    """Name the processor that trains, and the system."""
    device = jax.devices()[0]
    name = _processor() if device.platform == "cpu" else device.device_kind
    return f"{name}, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown processor"
