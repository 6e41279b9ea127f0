"""Configurations as JSON: written whole, read strictly, upgraded by version.

The hosts are not part of it: a resumed run would dial where the first one did, and
wait for processes that nobody started.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError, nearest_hint
from lostjax.train.config.fields import RENAMED_FIELDS
from lostjax.train.config.schema import HostsConfig, TrainConfig

VERSION = 2
"""Of the stored form. Version 0, which has no number, had methods' fields flat. Until
version 1, FRUGAL's state had other entries."""

KNOWN = range(VERSION + 1)


def save_config(path: Path, config: TrainConfig) -> None:
    """Write a configuration as JSON, without its hosts."""
    values = {"version": VERSION} | dataclasses.asdict(config)
    del values["hosts"]
    replace_file(path, (json.dumps(values, indent=2) + "\n").encode())


def load_config(path: Path) -> TrainConfig:
    """Read a configuration that `save_config` wrote, also one of an earlier version.

    Returns:
      The configuration; its hosts are unset, whatever the file names.

    Raises:
      ConfigError: if the file is missing, is not such a configuration, is of an unknown
        version, or holds a field that does not exist.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    # A number of 5,000 digits or 100,000 brackets are no configuration either.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a configuration: {error}") from None
    if isinstance(values, dict):
        values = _upgrade(values, where=str(path))
    made: TrainConfig = _from_dict(TrainConfig, values, where=str(path), prefix="")
    return dataclasses.replace(made, hosts=HostsConfig())


def check_resumable(path: Path) -> None:
    """Refuse to resume a run whose optimiser's state cannot be read any more.

    Args:
      path: a configuration that `load_config` reads.

    Raises:
      ConfigError: if the run trains with FRUGAL or GaLore and is of version 0 or 1.
    """
    values = json.loads(path.read_text("utf-8"))
    config = load_config(path)
    name = config.optim.name
    if name in ("frugal", "galore") and values.get("version", 0) < 2:
        raise ConfigError(
            f"{path.parent}: the {name} of an earlier lostjax, which wrote this run, "
            "kept other entries of each matrix; the model can be used, but training "
            "cannot resume: start a new run"
        )


def _upgrade(values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Bring stored values to today's form."""
    version = values.pop("version", 0)
    if isinstance(version, bool) or version not in KNOWN:
        raise ConfigError(
            f"{where}: version {version!r} is not known; this lostjax reads 0 to "
            f"{VERSION}"
        )
    if version:
        return values
    for old, new in RENAMED_FIELDS.items():
        part, _, name = old.partition(".")
        fields = values.get(part)
        if not isinstance(fields, dict) or isinstance(fields.get(name, {}), dict):
            continue  # absent, nested already, or refused later
        value = fields.pop(name)
        _, group, inner = new.split(".")
        fields.setdefault(group, {})
        if isinstance(fields[group], dict):
            fields[group][inner] = value
    return values


def _from_dict(cls: type[Any], values: Any, *, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {prefix or 'it'} must be a JSON object")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        hint = nearest_hint(unknown[0][:80], hints, prefix=prefix)
        raise ConfigError(
            f"{where}: no field is called {prefix}{_shown(unknown[0])}{hint}"
        )
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
