"""`python -m lostjax.train`: the command line of the trainer.

Two passes: `--preset`, `--config` or `--resume` choose the defaults, then every other
flag is read over them, so that `--help` shows the values that would be used. Errors
are one line, name the nearest flag, and leave with exit code 2.
"""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lostjax.train.config import ConfigError, TrainConfig, flat_fields, load_config
from lostjax.train.presets import get_preset
from lostjax.train.run_dir import find_run

PROGRAM = "python -m lostjax.train"
SHORT_FLAGS = {"--optim": "--optim.name"}


@dataclasses.dataclass(frozen=True)
class Flags(TrainConfig):
    """Train a language model on text and report on it.

    Presets: smoke (seconds), tiny (default, minutes), small (an hour), and the
    papers' sizes llama_60m, llama_130m, llama_350m, llama_1b, llama_7b and lost_60m
    ... lost_7b. `--optim=NAME` is short for `--optim.name=NAME`.
    """

    config: str | None = None
    """Start from the values of this JSON file, such as RUN/config.json."""
    resume: str | None = None
    """Go on with a run: its directory, or latest."""
    dry_run: bool = False
    """Print the resolved configuration and its budget, and stop."""


class Command(NamedTuple):
    """What a command line asks for."""

    config: TrainConfig
    dry_run: bool


def parse_command(arguments: Sequence[str]) -> Command:
    """Read a command line.

    Args:
      arguments: words after the program's name.

    Returns:
      The configuration (not yet checked) and what to do with it.

    Raises:
      ConfigError: one line that names the flag and the nearest right one.
      SystemExit: after printing the help that `--help` asks for.
    """
    words = [_normalised(word) for word in arguments]
    _refuse_repeats(words)
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
        start = dataclasses.replace(start, run_dir=str(directory))
    elif chosen["config"]:
        start = load_config(Path(chosen["config"]))
        start = dataclasses.replace(start, run_dir=None)
    else:
        start = get_preset(chosen["preset"] or "tiny")
    flags = _parse(words, start)
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    config = TrainConfig(**{name: getattr(flags, name) for name in names})
    return Command(config, flags.dry_run)


def _normalised(word: str) -> str:
    """Write a flag with hyphens and in its long form."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return SHORT_FLAGS.get(name, name) + equals + value


def _flag_names() -> list[str]:
    names = ["--" + name.replace("_", "-") for name in flat_fields(Flags())]
    switches = [
        name
        for name, value in flat_fields(Flags()).items()
        if value in (True, False) and type(value) is bool
    ]
    negated = []
    for name in switches:
        *room, last = name.replace("_", "-").split(".")
        negated.append("--" + ".".join([*room, f"no-{last}"]))
    return [*names, *negated, "--help"]


def _refuse_repeats(words: Sequence[str]) -> None:
    known = _flag_names()
    seen = set()
    for word in words:
        if not word.startswith("--"):
            continue
        name = word.partition("=")[0]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see --help"
            raise ConfigError(f"{name}: no such flag; {hint}")
        if name in seen:
            raise ConfigError(f"{name} is given twice")
        seen.add(name)


def _value_of(words: Sequence[str], name: str) -> str | None:
    for number, word in enumerate(words):
        if word == f"--{name}":
            return words[number + 1] if number + 1 < len(words) else None
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _parse(words: Sequence[str], start: TrainConfig) -> Flags:
    import tyro

    default = Flags(
        **{f.name: getattr(start, f.name) for f in dataclasses.fields(start)}
    )
    if {"-h", "--help"} & set(words):
        return tyro.cli(Flags, args=words, default=default, prog=PROGRAM)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(Flags, args=words, default=default, prog=PROGRAM)
    except SystemExit:
        raise ConfigError(_one_line(said.getvalue())) from None


def _one_line(text: str) -> str:
    """Take the message out of tyro's box: what stands between its first two rules."""
    sections = re.split(r"^\W*[-─]{3,}\W*$", text, flags=re.MULTILINE)
    message = sections[1] if len(sections) > 1 else text
    return " ".join(message.replace("│", " ").split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    started = time.monotonic()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = parse_command(words)
        # Imported late: --help and a mistyped flag answer at once.
        from lostjax.train import loop

        if command.dry_run:
            loop.print_plan(command.config)
            return 0
        return loop.train(
            command.config, command=" ".join([PROGRAM, *words]), started=started
        ).exit_code
    except ConfigError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
