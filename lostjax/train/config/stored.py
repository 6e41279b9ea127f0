"""Configurations as JSON: written whole, read strictly."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig

RENAMED_FIELDS: dict[str, str] = {}
"""Today's dotted name of a field, by the one that older configurations have."""


def save_config(path: Path, config: TrainConfig) -> None:
    """Write a configuration as JSON."""
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    replace_file(path, text.encode())


def load_config(path: Path) -> TrainConfig:
    """Read a configuration that `save_config` wrote.

    Raises:
      ConfigError: where the file is missing, is not such a configuration, or holds
        a field that does not exist.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    # A number of 5,000 digits or 100,000 brackets are no configuration either.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a configuration: {error}") from None
    made: TrainConfig = _from_dict(TrainConfig, values, where=str(path), prefix="")
    return made


def _from_dict(cls: type[Any], values: Any, *, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {prefix or 'it'} must be a JSON object")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where}: no field is called {prefix}{_shown(unknown[0])}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            made[name] = _from_dict(
                hints[name], value, where=where, prefix=f"{prefix}{name}."
            )
        else:
            made[name] = _checked(hints[name], value, f"{where}: {prefix}{name}")
    return cls(**made)


def _shown(name: str) -> str:
    return name if name.isidentifier() else repr(name)


def _checked(hint: Any, value: Any, name: str) -> Any:
    """Let a JSON value through where its type is the field's."""
    choices = getattr(hint, "__args__", ())
    if getattr(hint, "__origin__", None) is Literal:
        if value not in choices:
            raise ConfigError(f"{name}={value!r}: must be one of {', '.join(choices)}")
        return value
    allowed = choices or (hint,)
    if type(value) is int and abs(value) >= 2**63:
        raise ConfigError(f"{name}: must be a number of at most 64 bits")
    if float in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
        raise ConfigError(f"{name}={value!r}: must be of type {wanted}")
    return value
