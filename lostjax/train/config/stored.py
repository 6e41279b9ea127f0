"""Configurations as JSON: written whole, read strictly, upgraded by version.

A stored configuration ends with a hash of its text (`lostjax.disk.seal`). A run's must
have one from version 3 on, because its configuration decides the numbers of all that
follows. A file that a person wrote for `--config` needs none.

The hosts are not part of it: a resumed run would dial where the first one did, and
wait for processes that nobody started.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lostjax.disk.files import replace_file
from lostjax.disk.seal import Sealed, SealError, read_sealed, seal, was_sealed_as
from lostjax.errors import ConfigError, nearest_hint
from lostjax.train.config.fields import RENAMED_FIELDS
from lostjax.train.config.schema import HostsConfig, TrainConfig

VERSION = 3
"""Of the stored form. Version 0, which has no number, had methods' fields flat. Until
version 1, FRUGAL's state had other entries. Until version 2, there was no hash."""

KNOWN = range(VERSION + 1)

LARGEST = 2**20
"""Bytes of a stored configuration; a real one has about 2,000."""

CONFIG_FILE = "config.json"
"""Name of the configuration in a run's directory."""


def save_config(path: Path, config: TrainConfig) -> None:
    """Write a configuration as JSON, without its hosts."""
    replace_file(path, seal(_as_json(config)))


def load_config(path: Path) -> TrainConfig:
    """Read a configuration that `save_config` or a person wrote, of any version.

    Returns:
      The configuration; its hosts are unset, whatever the file names.

    Raises:
      ConfigError: if the file is missing, is not such a configuration, does not fit the
        hash that it holds, is of an unknown version, or holds a field that does not
        exist.
    """
    return overlay_config(TrainConfig(), read_values(path), where=str(path))


def read_values(path: Path) -> Any:
    """Read a JSON file of values, whose hash fits if it has one.

    Raises:
      ConfigError: if the file is missing, damaged or too large.
    """
    try:
        return _read(path).values
    except SealError as error:
        hint = '; if you edited it on purpose, remove its last field, "hash"'
        raise ConfigError(
            f"{path}: not a configuration: it {error}"
            f"{hint if 'edited' in str(error) else ''}"
        ) from None


def overlay_config(base: TrainConfig, values: Any, *, where: str) -> TrainConfig:
    """Replace the fields of a configuration that a file names.

    Args:
      base: the values that the file leaves out.
      values: the file's, of any version.
      where: the file, for messages.

    Returns:
      The configuration; its hosts are unset, whatever the file names.

    Raises:
      ConfigError: if a field does not exist, or a value is not of its type.
    """
    if isinstance(values, dict):
        values = _upgrade(values, where=where)
    made: TrainConfig = _overlay(base, values, where=where, prefix="")
    return dataclasses.replace(made, hosts=HostsConfig())


def load_run_config(directory: Path) -> TrainConfig:
    """Read the configuration of a run, exactly as the run wrote it.

    Raises:
      ConfigError: if it was edited or is damaged, with what to do; or see
        `load_config`.
    """
    path = directory / CONFIG_FILE
    try:
        sealed = _read(path)
        if not sealed.is_sealed and _version(sealed.values) >= 3:
            raise SealError("was edited: its hash is missing")
    except SealError as error:
        raise ConfigError(
            f"{path}: {error}; undo the change, or repeat the command line that began "
            f"the run, with --run-dir={directory}; to resume it with other values pass "
            f"them as flags (--resume={directory} --keep=5); what decides the numbers "
            "needs a new run (--config=FILE --run-dir=NEW)"
        ) from None
    return load_config(path)


def find_original(path: Path, config: TrainConfig) -> TrainConfig | None:
    """Find the configuration that a damaged file was written from.

    Args:
      path: the damaged file.
      config: what the command line says, which may name the run's directory in another
        way than the one that began the run.

    Returns:
      The configuration, if the file can only have been that one; else None.
    """
    raw = path.read_bytes()
    for name in (config.run_dir, None, str(path.parent), str(path.parent.absolute())):
        candidate = dataclasses.replace(config, run_dir=name)
        if was_sealed_as(raw, _as_json(candidate)):
            return candidate
    return None


def check_resumable(path: Path) -> None:
    """Refuse to resume a run whose optimiser's state cannot be read any more.

    Args:
      path: a configuration that `load_config` reads.

    Raises:
      ConfigError: if the run trains with FRUGAL or GaLore and is of version 0 or 1.
    """
    values = _read(path).values
    config = load_config(path)
    name = config.optim.name
    if name in ("frugal", "galore") and values.get("version", 0) < 2:
        raise ConfigError(
            f"{path.parent}: the {name} of an earlier lostjax, which wrote this run, "
            "kept other entries of each matrix; the model can be used, but training "
            "cannot resume: start a new run"
        )


def _as_json(config: TrainConfig) -> dict[str, Any]:
    values = {"version": VERSION} | dataclasses.asdict(config)
    del values["hosts"]
    return values


def _read(path: Path) -> Sealed:
    """Read a file that is there; raises `SealError` if it is damaged."""
    try:
        return read_sealed(path, largest=LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: not a configuration: {error.strerror}") from None


def _version(values: object) -> int:
    found = values.get("version", 0) if isinstance(values, dict) else 0
    return found if type(found) is int else 0  # another type is refused by `_upgrade`


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


def _overlay(base: Any, values: Any, *, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {prefix or 'it'} must be a JSON object")
    hints = get_type_hints(type(base))
    unknown = sorted(set(values) - set(hints))
    if unknown:
        hint = nearest_hint(unknown[0][:80], hints, prefix=prefix)
        raise ConfigError(
            f"{where}: no field is called {prefix}{_shown(unknown[0])}{hint}"
        )
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            inner = getattr(base, name)
            made[name] = _overlay(inner, value, where=where, prefix=f"{prefix}{name}.")
        else:
            made[name] = _checked(hints[name], value, f"{where}: {prefix}{name}")
    return dataclasses.replace(base, **made)


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
