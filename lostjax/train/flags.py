"""Read a command line into a dataclass of flags, strictly.

Two passes: `--preset`, `--config`, `--resume` or `--init-from` choose the defaults,
then every other flag is read over them, so that `--help` shows the values that would be
used. Errors are one line and name the nearest flag.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from lostjax import __version__
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError, nearest_hint
from lostjax.train.config.fields import RENAMED_FIELDS, flag_name, replace_in
from lostjax.train.config.files import read_config_file
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_run_config
from lostjax.train.habits import suggest_flag, suggest_for_word
from lostjax.train.keep.directory import find_run
from lostjax.train.keep.layout import TOKENIZER_FILES
from lostjax.train.usage import (
    format_full_usage,
    format_own_usage,
    format_usage,
    kind_of,
    negated_flag,
    positional_fields,
)

__all__ = ["Positional", "config_of", "parse_flags", "parse_run_flags"]

SHORT_FLAGS = {
    "--optim": "--optim.name",
    "--objective.reweight": "--objective.reweight.name",
    "--objective.trajectory": "--objective.trajectory.name",
}
"""Flags with a short form: the name of a method stands for its group."""

_NUMBERS = {
    int: r"-?[0-9]+",
    float: r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|-?inf|nan",
}
"""Numbers as people write them: Python also takes 1_0, other scripts and spaces."""

_STARTS = ("preset", "config", "resume", "init-from")
"""Flags that choose the values over which others are read."""

T = TypeVar("T")
R = TypeVar("R", bound=TrainConfig)


def parse_run_flags(flags: type[R], arguments: Sequence[str], *, program: str) -> R:
    """Read a command line over a preset, a stored configuration or a run.

    `--help` prints the flags that people use most, `--help-all` every one.

    Args:
      flags: a dataclass with the fields of `TrainConfig` and its own.
      arguments: words after the program's name.
      program: named in the help.

    Raises:
      ConfigError: one line that names the flag and the nearest right one.
      SystemExit: after printing the help or, for `--version`, the version.
    """
    words = [_normalise(word) for word in arguments]
    _print_version(words)
    known = _flag_names(flags) | {"--help-all": "--help-all"}
    _refuse_unknown_and_repeated(words, known=known)
    default = flags(**_fields_of(_choose_start(words)))
    for asked, formatted in (
        ({"-h", "--help"}, format_usage),
        ({"--help-all"}, format_full_usage),
    ):
        if asked & set(words):
            print(formatted(default, program=program))
            raise SystemExit(0)
    made = _parse(flags, words, default=default, program=program)
    if made.init_from == "latest":
        directory = default.init_from or find_run("latest", with_checkpoint=True)
        made = dataclasses.replace(made, init_from=str(directory))
    weights = made.objective.token_weights
    if weights.reference == "latest":
        directory = default.objective.token_weights.reference or find_run(
            "latest", with_checkpoint=True
        )
        made = replace_in(made, "objective.token_weights", reference=str(directory))
    return made


def config_of(flags: TrainConfig) -> TrainConfig:
    """Take the configuration out of flags that have more fields."""
    return TrainConfig(**_fields_of(flags))


def parse_flags(flags: type[T], arguments: Sequence[str], *, program: str) -> T:
    """Read a command line into a dataclass of flags, from its own defaults.

    Args:
      flags: a dataclass whose fields, nested ones by dotted names, are the flags.
      arguments: words after the program's name.
      program: named in the help.

    Raises:
      ConfigError: one line, for an unknown flag, a repeated one, or a wrong value.
      SystemExit: after printing the help or, for `--version`, the version.
    """
    words = [_normalise(word) for word in arguments]
    _print_version(words)
    # Their help is whole: --help-all is for a person who knows it from the trainer.
    known = _flag_names(flags) | {"--help-all": "--help-all"}
    _refuse_unknown_and_repeated(words, known=known)
    if {"-h", "--help", "--help-all"} & set(words):
        print(format_own_usage(flags, program=program))
        raise SystemExit(0)
    return _parse(flags, words, default=None, program=program)


def _print_version(words: Sequence[str]) -> None:
    if "--version" in words:
        print(f"lostjax {__version__}")
        raise SystemExit(0)


def _parse(
    flags: type[T], words: Sequence[str], *, default: T | None, program: str
) -> T:
    import tyro

    _check_words(words, flags)
    options: dict[str, Any] = {"args": words, "prog": program}
    if default is not None:
        options["default"] = default
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            made: T = tyro.cli(flags, **options)
            return made
    except SystemExit:
        raise ConfigError(_one_line(printed.getvalue())) from None


def _fields_of(config: TrainConfig) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return {name: getattr(config, name) for name in names}


def _choose_start(words: Sequence[str]) -> TrainConfig:
    """Find the values that the flags are read over."""
    chosen = {name: _value_of(words, name) for name in _STARTS}
    if chosen["config"] and chosen["resume"]:
        raise ConfigError("--config and --resume both say where values start from")
    if chosen["preset"] and chosen["resume"]:
        raise ConfigError("--preset and --resume both say where values start from")
    if chosen["resume"] and chosen["init-from"]:
        raise ConfigError(
            "--init-from and --resume both say which parameters the run starts from"
        )
    if chosen["resume"]:
        directory = find_run(chosen["resume"])
        start = load_run_config(directory)
        return dataclasses.replace(start, run_dir=str(directory))
    if chosen["config"]:
        path = read_path(chosen["config"], flag="--config")
        start = read_config_file(path, preset=chosen["preset"])
        return dataclasses.replace(start, run_dir=None)
    if chosen["init-from"]:
        return _start_from(chosen["init-from"], preset=chosen["preset"])
    return get_preset(chosen["preset"] or "tiny")


def _start_from(name: str, *, preset: str | None) -> TrainConfig:
    """Take the model and the tokenizer of a run, and the rest from it or a preset."""
    directory = find_run(name, with_checkpoint=True)
    there = load_run_config(directory)
    start = get_preset(preset) if preset else there
    tokenizer = there.data.tokenizer
    if tokenizer != "bytes":  # bpe:SIZE would learn another one from another text
        copies = [directory / name for name in TOKENIZER_FILES]
        tokenizer = str(next((each for each in copies if each.is_file()), copies[0]))
    return dataclasses.replace(
        start,
        run_dir=None,
        model=there.model,
        data=dataclasses.replace(start.data, tokenizer=tokenizer),
        optim=dataclasses.replace(start.optim, earlier=""),
        init_from=str(directory),
        init_step=None,
    )


def _normalise(word: str) -> str:
    """Write a flag with hyphens and in its long form."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return SHORT_FLAGS.get(name, name) + equals + value


def _flag_names(flags: type[Any]) -> dict[str, str]:
    """List all flags; a negated one with the flag that it negates."""
    names = {"--help": "--help"}
    for field, kind in _flag_types(flags).items():
        if field in positional_fields(flags):
            continue
        names[flag_name(field)] = flag_name(field)
        if kind is bool:
            names[negated_flag(field)] = flag_name(field)
    return names


def _flag_types(flags: type[Any], prefix: str = "") -> dict[str, Any]:
    """List a dataclass's leaves by dotted name, with their types."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(flags).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            types |= _flag_types(kind, f"{prefix}{name}.")
        else:
            types[prefix + name] = kind
    return types


def _refuse_unknown_and_repeated(
    words: Sequence[str], *, known: Mapping[str, str]
) -> None:
    renamed = {flag_name(old): flag_name(new) for old, new in RENAMED_FIELDS.items()}
    seen: dict[str, str] = {}
    for word in words:
        if not word.startswith("--"):
            continue
        name = word.partition("=")[0]
        if name not in known and renamed.get(name) in known:
            raise ConfigError(f"{name}: no such flag; it is called {renamed[name]} now")
        if name not in known:
            hint = suggest_flag(name, known)
            raise ConfigError(f"{name}: no such flag{hint or '; see --help'}")
        if known[name] in seen:
            other = seen[known[name]]
            clash = f"{other} and {name} contradict each other"
            raise ConfigError(f"{name} is given twice" if other == name else clash)
        seen[known[name]] = name


def _check_words(words: Sequence[str], flags: type[Any]) -> None:
    """Refuse stray words, and flags whose value is missing or of the wrong type."""
    types = _flag_types(flags)
    needed = positional_fields(flags)
    kinds = {flag_name(field): kind for field, kind in types.items()}
    off = {negated_flag(field): bool for field, kind in types.items() if kind is bool}
    kinds |= off
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            if not needed:
                word = name + equals + value
                raise ConfigError(
                    f"{word}: not a flag; write flags as --NAME=VALUE"
                    f"{suggest_for_word(word, kinds)}"
                )
            needed.pop(0)
        elif kinds[name] is bool:
            _refuse_valued_switch(name + equals + value, types)
        else:
            if not equals and (not rest or rest[0].startswith("--")):
                raise ConfigError(f"{name}: has no value; write {name}=VALUE")
            _check_value(name, value if equals else rest.pop(0), kinds[name])
    if needed:
        such = ", such as latest" if needed[0] == "run" else ""
        raise ConfigError(f"{needed[0].upper()} is missing{such}; see --help")


def _refuse_valued_switch(word: str, types: dict[str, Any]) -> None:
    """Refuse `--dry-run=true`: a switch has two names and no value."""
    name, equals, _ = word.partition("=")
    for field in types:
        on, off = flag_name(field), negated_flag(field)
        if equals and name in (on, off):
            raise ConfigError(f"{word}: takes no value; write {on} or {off}")


def _check_value(name: str, value: str, hint: Any) -> None:
    """Refuse a value that is not of the flag's type."""
    kind = kind_of(hint)
    if kind is not hint and value == "None":
        return
    if kind is not hint and not value:
        raise ConfigError(f"{name}=: has no value; write {name}=VALUE")
    short = {long: flag for flag, long in SHORT_FLAGS.items()}
    shown = f"{short.get(name, name)}={value}"
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            near = nearest_hint(value, choices)
            raise ConfigError(f"{shown}: must be one of {', '.join(choices)}{near}")
    elif kind in _NUMBERS and not re.fullmatch(_NUMBERS[kind], value):
        noun = "an integer" if kind is int else "a number"
        if value.startswith("+"):
            noun += ": the whole value, not what is added"
        raise ConfigError(f"{shown}: must be {noun}")


def _value_of(words: Sequence[str], name: str) -> str | None:
    for number, word in enumerate(words):
        if word == f"--{name}":
            return words[number + 1] if number + 1 < len(words) else None
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _one_line(text: str) -> str:
    """Take the message out of tyro's box: the text between its first two rules."""
    sections = re.split(r"^\W*[-─]{3,}\W*$", text, flags=re.MULTILINE)
    message = sections[1] if len(sections) > 1 else text
    return " ".join(message.replace("│", " ").split())
