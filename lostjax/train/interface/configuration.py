"""Configurations from Python, read as strictly as a command line."""

import shlex

import numpy as np

from lostjax.errors import ConfigError
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import flag_name, flat_fields
from lostjax.train.config.presets import PRESETS
from lostjax.train.config.schema import TrainConfig
from lostjax.train.flags import SHORT_FLAGS, parse_run_flags
from lostjax.train.interface.mistakes import cut_traceback
from lostjax.train.usage import negated_flag

PROGRAM = "python -m lostjax.train"


@cut_traceback
def preset(name: str = "tiny", /, **values: object) -> TrainConfig:
    """Return a preset's configuration with other values for some fields.

    Args:
      name: `smoke` (seconds), `tiny` (minutes), `small` (an hour), or a paper's size,
        as `python -m lostjax.train --help` lists them.
      **values: fields by name, with the meaning of the flags. Write a field of a part
        with its dot: `**{"optim.name": "frugal", "model.rank": 64}`. A path may be a
        `pathlib.Path`.

    Returns:
      The configuration, a frozen dataclass.

    Raises:
      ConfigError: if there is no such preset or field, with the nearest one, or if a
        value cannot be used.

    Example:
      config = lostjax.train.preset("smoke", steps=50, **{"optim.name": "frugal"})
    """
    words = [_as_word(field, value) for field, value in values.items()]
    config = parse_run_flags(
        TrainConfig, [f"--preset={name}", *words], program="lostjax.train.preset"
    )
    check_config(config)
    return config


def format_command(config: TrainConfig) -> str:
    """Write the command line that trains a configuration."""
    default = PRESETS.get(config.preset, TrainConfig())
    before = flat_fields(default)
    words = [
        _as_word(field, value)
        for field, value in flat_fields(config).items()
        if value != before[field] and field != "preset"
    ]
    return shlex.join([*PROGRAM.split(), f"--preset={config.preset}", *words])


def _as_word(field: str, value: object) -> str:
    """Write a field and its value as a word of a command line."""
    flag = flag_name(field)
    fields = flat_fields(TrainConfig())
    is_switch = isinstance(fields.get(field), bool)
    if isinstance(value, np.generic):
        value = value.item()
    if is_switch and not isinstance(value, bool):
        raise ConfigError(f"{flag}={value!r}: must be True or False")
    if is_switch:
        return flag if value else negated_flag(field)
    # Such a word would print a help or a version and exit, not name the unknown field.
    if field not in fields and flag in ("--help", "--help-all", "--version"):
        raise ConfigError(f"{flag}: no such field")
    if not isinstance(value, (str, int, float, type(None))):
        value = _as_text(flag, value, fields)
    text = repr(value) if isinstance(value, float) else str(value)
    return f"{SHORT_FLAGS.get(flag, flag)}={text}"


def _as_text(flag: str, value: object, fields: dict[str, object]) -> str:
    if hasattr(value, "__fspath__"):
        return str(value)
    part = flag.removeprefix("--").replace("-", "_")
    inner = next((name for name in fields if name.startswith(f"{part}.")), None)
    hint = f'; name its fields: **{{"{inner}": ...}}' if inner else ""
    raise ConfigError(f"{flag}: must be text or a number, got {value!r:.60}{hint}")
