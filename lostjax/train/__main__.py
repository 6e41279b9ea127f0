"""`python -m lostjax.train`: the command line of the trainer.

Errors are one line, name the nearest flag, and exit with code 2.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.train")

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig
from lostjax.train.flags import config_of, parse_run_flags
from lostjax.train.log.output import run_program

PROGRAM = "python -m lostjax.train"


@dataclasses.dataclass(frozen=True)
class Flags(TrainConfig):
    """Train a language model on text and report on it.

    Presets: smoke (seconds), tiny (default, minutes), small (an hour), and the
    papers' sizes llama_60m, llama_130m, llama_350m, llama_1b, llama_7b and lost_60m
    ... lost_7b. Other flags override their values.
    """

    config: str | None = None
    """YAML or JSON file of values over the preset's, or RUN/config.json."""
    resume: str | None = None
    """Run to resume: its directory, or latest. Other steps or another --optim.schedule
    extend it."""
    dry_run: bool = False
    """Print the configuration, its memory and FLOPs; do not train."""


class Command(NamedTuple):
    """What a command line asks for."""

    config: TrainConfig
    dry_run: bool
    extends: bool = False
    """Whether the run in the directory is the one to go on with, if need be further."""


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
    flags = parse_run_flags(Flags, arguments, program=PROGRAM)
    return Command(config_of(flags), flags.dry_run, extends=flags.resume is not None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    started = time.monotonic()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = parse_command(words)
        # Imported late: --help and a mistyped flag answer at once.
        from lostjax.data import DataError
        from lostjax.train.devices.hosts import finish_with_hosts, leave_hosts
        from lostjax.train.report.preview import print_preview
        from lostjax.train.session import train
    except ConfigError as error:
        return _refuse(error)
    try:
        if command.dry_run:
            print_preview(command.config, extends=command.extends)
            return 0
        line = f"{PROGRAM} {shlex.join(words)}".rstrip()
        code = train(
            command.config, command=line, started=started, extends=command.extends
        ).exit_code
        finish_with_hosts(code)
        return code
    except (ConfigError, DataError) as error:
        return leave_hosts(_refuse(error))
    except KeyboardInterrupt:  # before there is a state to save, or after it was saved
        return leave_hosts(130)


def _refuse(error: Exception) -> int:
    print(f"{PROGRAM}: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run_program(main))
