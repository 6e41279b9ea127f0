"""Read a command line into a dataclass of flags, strictly.

Two passes: `--preset`, `--config` or `--resume` choose the defaults, then every other
flag is read over them, so that `--help` shows the values that would be used. Errors
are one line and name the nearest flag.
"""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from lostjax.errors import ConfigError
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_config
from lostjax.train.keep.directory import find_run

SHORT_FLAGS = {"--optim": "--optim.name"}


T = TypeVar("T")


R = TypeVar("R", bound=TrainConfig)


def parse_run_flags(flags: type[R], arguments: Sequence[str], *, program: str) -> R:
    """Read a command line over a preset, a stored configuration or a run.

    Args:
      flags: a dataclass with the fields of `TrainConfig` and its own.
      arguments: words after the program's name.
      program: named in the help.

    Raises:
      ConfigError, SystemExit: as `parse_command` does.
    """
    words = [normalise(word) for word in arguments]
    _refuse_unknown_and_repeated(words, known=_flag_names(flags))
    default = flags(**_fields_of(_choose_start(words)))
    return parse_flags(flags, words, default=default, program=program)


def config_of(flags: TrainConfig) -> TrainConfig:
    """Take the configuration out of flags that have more fields."""
    return TrainConfig(**_fields_of(flags))


def _fields_of(config: TrainConfig) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return {name: getattr(config, name) for name in names}


def _choose_start(words: Sequence[str]) -> TrainConfig:
    """Find the values that the flags are read over."""
    chosen = {name: _value_of(words, name) for name in ("preset", "config", "resume")}
    if chosen["config"] and chosen["resume"]:
        raise ConfigError("--config and --resume both say where values start from")
    if chosen["preset"] and (chosen["config"] or chosen["resume"]):
        raise ConfigError(
            "--preset and --config or --resume both say where values start from"
        )
    if chosen["resume"]:
        directory = find_run(chosen["resume"])
        start = load_config(directory / "config.json")
        return dataclasses.replace(start, run_dir=str(directory))
    if chosen["config"]:
        start = load_config(Path(chosen["config"]))
        return dataclasses.replace(start, run_dir=None)
    return get_preset(chosen["preset"] or "tiny")


def parse_flags(
    flags: type[T], words: Sequence[str], *, default: T | None, program: str
) -> T:
    """Read words into a dataclass of flags, strictly.

    Args:
      flags: a dataclass whose fields, nested ones by dotted names, are the flags.
      words: normalised words of a command line.
      default: where values start from; None where the class has its own defaults.
      program: named in the help.

    Raises:
      ConfigError: one line, for an unknown flag, one given twice, or a wrong value.
      SystemExit: after printing the help that `--help` asks for.
    """
    import tyro

    _refuse_unknown_and_repeated(words, known=_flag_names(flags))
    _refuse_valued_switches(words, flags)
    options: dict[str, Any] = {"args": words, "prog": program}
    if default is not None:
        options["default"] = default

    def read() -> T:
        made: T = tyro.cli(flags, **options)
        return made

    if {"-h", "--help"} & set(words):
        return read()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return read()
    except SystemExit:
        raise ConfigError(_one_line(said.getvalue())) from None


def normalise(word: str) -> str:
    """Write a flag with hyphens and in its long form."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return SHORT_FLAGS.get(name, name) + equals + value


def _flag_names(flags: type[Any]) -> list[str]:
    names = ["--help"]
    for field, kind in flag_types(flags).items():
        *room, last = field.replace("_", "-").split(".")
        names.append("--" + ".".join([*room, last]))
        if kind is bool:
            names.append("--" + ".".join([*room, f"no-{last}"]))
    return names


def flag_types(flags: type[Any], prefix: str = "") -> dict[str, Any]:
    """List a dataclass's leaves by dotted name, with their types."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(flags).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            types |= flag_types(kind, f"{prefix}{name}.")
        else:
            types[prefix + name] = kind
    return types


def _refuse_unknown_and_repeated(words: Sequence[str], *, known: list[str]) -> None:
    seen = set()
    for word in words:
        if not word.startswith("--"):
            continue
        name = word.partition("=")[0]
        if name not in known:
            # Without their dashes, which would make any two flags alike.
            bare = [flag.lstrip("-") for flag in known]
            near = difflib.get_close_matches(name.lstrip("-"), bare, n=1, cutoff=0.5)
            hint = f"did you mean --{near[0]}?" if near else "see --help"
            raise ConfigError(f"{name}: no such flag; {hint}")
        if name in seen:
            raise ConfigError(f"{name} is given twice")
        seen.add(name)


def _refuse_valued_switches(words: Sequence[str], flags: type[Any]) -> None:
    """Refuse `--dry-run=true`: a switch has two names and no value."""
    switches = [name for name, kind in flag_types(flags).items() if kind is bool]
    for word in words:
        name, equals, _ = word.partition("=")
        for switch in switches:
            *room, last = switch.replace("_", "-").split(".")
            on, off = (".".join([*room, text]) for text in (last, f"no-{last}"))
            if equals and name in (f"--{on}", f"--{off}"):
                raise ConfigError(f"{word}: takes no value; write --{on} or --{off}")


def _value_of(words: Sequence[str], name: str) -> str | None:
    for number, word in enumerate(words):
        if word == f"--{name}":
            return words[number + 1] if number + 1 < len(words) else None
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _one_line(text: str) -> str:
    """Take the message out of tyro's box: what stands between its first two rules."""
    sections = re.split(r"^\W*[-─]{3,}\W*$", text, flags=re.MULTILINE)
    message = sections[1] if len(sections) > 1 else text
    return " ".join(message.replace("│", " ").split())
