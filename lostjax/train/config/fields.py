"""Fields of a configuration by dotted name: read, replace, list, compare, rename."""

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

from lostjax.train.config.schema import TrainConfig

C = TypeVar("C")

SAME_RUN = (
    "steps",
    "batch_size",
    "accumulate",
    "seed",
    "model",
    "data",
    "optim",
    "objective",
    "init_from",
    "init_step",
)
"""Fields that a resumed run must share with its checkpoint: they decide the numbers."""

FREE_FIELDS = frozenset(
    {
        *("data.cache_dir", "model.attention", "model.product", "model.remat"),
        # Its digest tells whether it is the same, wherever it was moved.
        "objective.token_weights.reference",
    }
)
"""Dotted fields under `SAME_RUN` that change where or how a run computes, not what."""

_FRUGAL = (
    "density",
    "update_gap",
    "subspace",
    "block_order",
    "stagger",
    "state_free",
    "free_scale",
    "on_refresh",
)
_TRAJECTORY = (
    "weight",
    "temperature",
    "start",
    "end",
    "lag_epochs",
    "top_k",
    "decay",
    "lag_steps",
)

RENAMED_FIELDS: dict[str, str] = {
    **{f"optim.{name}": f"optim.frugal.{name}" for name in _FRUGAL},
    "objective.reweight": "objective.reweight.name",
    "objective.reweight_temperature": "objective.reweight.temperature",
    "objective.reweight_warmup": "objective.reweight.warmup",
    "objective.trajectory": "objective.trajectory.name",
    **{
        f"objective.trajectory_{name}": f"objective.trajectory.{name}"
        for name in _TRAJECTORY
    },
}
"""Dotted names of version 0 (flat methods) to those of today (nested ones)."""


def get_field(config: object, name: str) -> Any:
    """Read a dotted field such as `model.rank`."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replace_in(config: C, part: str, **values: object) -> C:
    """Replace fields of a part: `replace_in(config, "optim.frugal", density=0.5)`."""
    name, _, rest = part.partition(".")
    inner = getattr(config, name)
    if rest:
        changed = replace_in(inner, rest, **values)
    else:
        changed = dataclasses.replace(inner, **values)
    made: C = dataclasses.replace(config, **{name: changed})  # type: ignore[type-var]
    return made


def flat_fields(config: object, prefix: str = "") -> dict[str, Any]:
    """List a configuration's leaves by dotted name, in the order of declaration."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            leaves |= flat_fields(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves


def deciding_fields(config: TrainConfig) -> dict[str, Any]:
    """List, by dotted name, the leaves that decide a run's numbers."""
    return {
        name: value
        for name, value in flat_fields(config).items()
        if name.split(".")[0] in SAME_RUN and name not in FREE_FIELDS
    }


def diff_configs(
    old: TrainConfig, new: TrainConfig, *, without: Collection[str] = ()
) -> list[str]:
    """List the differences that make two configurations different runs.

    Args:
      old: a run's configuration.
      new: another one.
      without: dotted fields that are not compared.

    Returns:
      Lines such as `--model.rank: 32 there, 64 now`; empty for the same run.
    """
    before = deciding_fields(old)
    return [
        f"{flag_name(name)}: {before[name]} there, {value} now"
        for name, value in deciding_fields(new).items()
        if before[name] != value and name not in without
    ]


def flag_name(name: str) -> str:
    """Write a dotted field as its flag."""
    return "--" + name.replace("_", "-")
