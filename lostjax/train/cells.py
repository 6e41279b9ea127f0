"""Cells: short runs of a grid, each trained once and kept as JSON.

A cell's file has a name to find it by and holds the fields that decided its numbers. It
stands for a configuration where the two agree; a field that the file lacks, being
younger than it, counts as its default. Any other file under that name is a mistake that
is told, not overwritten.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from lostjax.train.config import ConfigError, TrainConfig, deciding_fields
from lostjax.train.files import replace_file
from lostjax.train.trial import run_trial


class Cell(NamedTuple):
    """What a short run came to; NaN where it diverged."""

    parameters: int
    """Trainable parameters outside embedding and head."""
    initial_loss: float
    """Training loss of the first step, before any update, nats per token."""
    loss: float
    """Held-out loss at the end, nats per token."""
    bits_per_byte: float
    """The same per UTF-8 byte."""
    max_attention_logit: float
    """The largest in size of the watched steps; NaN where none was."""


def run_cell(config: TrainConfig, *, directory: Path) -> Cell:
    """Train a configuration, or read what it came to before.

    Args:
      config: what is trained; `stability.every` says how often logits are looked at.
      directory: of the cells; made where missing.

    Raises:
      ConfigError: where the cell's file is not one, or another configuration's.
    """
    model, rate = config.model, config.optim.learning_rate
    path = directory / f"width{model.d_model}-lr{rate!r}-seed{config.seed}.json"
    if path.exists():
        return _load(path, config)
    trial = run_trial(config)
    logit = trial.max_attention_logit
    cell = Cell(
        parameters=trial.parameters,
        initial_loss=trial.losses[0],
        loss=trial.evaluation.loss,
        bits_per_byte=trial.evaluation.bits_per_byte,
        max_attention_logit=math.nan if logit is None else logit,
    )
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        name: value if math.isfinite(value) else None
        for name, value in cell._asdict().items()
    }
    text = json.dumps({"configuration": _deciding(config)} | values, indent=1)
    replace_file(path, (text + "\n").encode())
    return cell


def _load(path: Path, config: TrainConfig) -> Cell:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        stored = values.pop("configuration")
        numbers: dict[str, Any] = {
            k: math.nan if v is None else v for k, v in values.items()
        }
        cell = Cell(**numbers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: not a cell ({error}); remove it") from None
    before, now = _deciding(TrainConfig()) | stored, _deciding(config)
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"{path}: is of another configuration ({name}: {before.get(name)} there, "
            f"{now.get(name)} now); give another directory, or remove it"
        )
    return cell


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """List the fields that decide a cell's numbers, by dotted name."""
    return deciding_fields(config) | {"stability.every": config.stability.every}
