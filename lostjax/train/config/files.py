"""Configuration files that a person writes: YAML or JSON, complete or partial.

    preset: small                     the values that the file leaves out
    steps: 3000
    optim.name: frugal                keys with dots, as flags have them, or nested ones
    model:
      rank: 64

YAML is read as its core schema: true, false, null and numbers are what they look like,
and 1e-3 is a number, which YAML 1.1 reads as text. Tags, anchors and aliases are
refused, because a few lines of them can stand for gigabytes.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lostjax.disk.seal import SealError, read_regular
from lostjax.errors import ConfigError, first_line
from lostjax.train.config.fields import flag_name, flat_fields
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_config, overlay_config, read_values

LARGEST_YAML = 2**16
"""Bytes of a YAML file; parsing a megabyte takes half a minute."""

_NAMED = ("optim", "objective.reweight", "objective.trajectory")
"""Groups for which the name of a method may stand."""

_GROUPS = {
    ".".join(name.split(".")[:end])
    for name in flat_fields(TrainConfig())
    for end in range(1, name.count(".") + 1)
}


def read_config_file(path: Path, *, preset: str | None = None) -> TrainConfig:
    """Read a configuration file over a preset.

    Args:
      path: a file whose name ends in .yaml or .yml, or one of JSON. A stored one, such
        as RUN/config.json, is complete.
      preset: the preset that the command line names; else the file's, or tiny.

    Returns:
      The configuration; its hosts are unset, whatever the file names.

    Raises:
      ConfigError: in one line, if the file cannot be read, a field does not exist or
        is given twice, a value is of the wrong type, or two presets are named.
    """
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    values = _read_yaml(path) if is_yaml else read_values(path)
    if isinstance(values, Mapping) and "version" in values and not is_yaml:
        if preset is not None:
            raise ConfigError(
                f"--preset={preset} and --config={path}, which holds every value, both "
                "say where values start from"
            )
        return load_config(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: must hold names and values, such as steps: 600")
    leaves = _collect(values, where=str(path))
    named = leaves.get("preset")
    if preset is not None and named not in (None, preset):
        raise ConfigError(
            f"--preset={preset}: {path} names another one, {named!r:.60}; omit one"
        )
    name = preset or named or "tiny"
    if not isinstance(name, str):
        raise ConfigError(f"{path}: preset={name!r:.60}: must be of type str")
    base = get_preset(name, flag="--preset" if preset else f"{path}: preset")
    return overlay_config(base, _nest(leaves), where=str(path))


def _collect(values: Mapping[Any, Any], *, where: str) -> dict[str, Any]:
    """List the leaves of a file by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in _walk(values, prefix="", where=where):
        known = f"{name}.name" if name in _NAMED and isinstance(value, str) else name
        if known in leaves:
            raise ConfigError(f"{where}: {flag_name(known)[2:]} is given twice")
        leaves[known] = value
    return leaves


def _walk(
    values: Mapping[Any, Any], *, prefix: str, where: str
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: {key!r:.60}: names must be text")
        name = prefix + key.replace("-", "_")
        if isinstance(value, Mapping):
            yield from _walk(value, prefix=f"{name}.", where=where)
        elif value is not None or name not in _GROUPS:  # a section without entries
            yield name, value


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in leaves.items():
        *path, last = name.split(".")
        place = nested
        for part in path:
            inner = place.setdefault(part, {})
            # A value stands where a group is needed: the group is refused as a field.
            place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return nested


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader of YAML's core schema, without aliases, with unique keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not read",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:  # YAML would silently take the last one
                raise yaml.MarkedYAMLError(
                    problem=f"{name:.60} is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _construct_int(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))


def _construct_float(loader: _Loader, node: Any) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf"))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("null", "~|null|Null|NULL|", ["", *"~nN"]),
    ("int", "[-+]?[0-9]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)",
        [*"-+.0123456789"],
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first
    )


def _read_yaml(path: Path) -> Any:
    try:
        raw = read_regular(path, largest=LARGEST_YAML)
        return yaml.load(raw, _Loader) or {}  # as safe as SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: not a configuration: {error.strerror}") from None
    except SealError as error:
        raise ConfigError(f"{path}: not a configuration: it {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem}") from None
    # Numbers of 5,000 digits raise ValueError, deep nesting RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {first_line(error)}") from None
