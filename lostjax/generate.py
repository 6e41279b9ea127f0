"""Generate text from a checkpoint: `python -m lostjax.generate RUN --prompt "..."`.

Without `--prompt`, and at a terminal, it asks for prompts and prints the tokens as they
come, until Ctrl-D. `--prompt=-` reads the prompt from standard input. Configuration and
tokenizer are those of the run. The checkpoint may have been saved on any mesh, and is
restored onto one device.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.generate")

import dataclasses
import itertools
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from lostjax.errors import ConfigError, DataError
from lostjax.train.config.checks import check_seed
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.finished import Run, load
from lostjax.train.interface.sampling import (
    check_values,
    compile_stream,
    make_sampling,
)
from lostjax.train.log.output import run_printing_program

PROGRAM = "python -m lostjax.generate"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Continue a prompt with a trained model."""

    run: Positional[str]
    """Directory of the run, or latest."""
    prompt: str | None = None
    """Text to continue; - reads it from standard input, such as a pipe. Default: ask
    for prompts at a terminal, "Fellow citizens," elsewhere."""
    tokens: int = 100
    """Number of tokens to generate."""
    temperature: float = 0.8
    """Divides the logits, 0 or more; 0 takes the most likely token."""
    top_k: int | None = None
    """Sample among this number of most likely tokens."""
    top_p: float | None = None
    """Sample among the most likely tokens that together have this probability, in
    (0, 1]."""
    seed: int = 0
    """Seed of the sampling."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to which the parameters are rounded in memory."""
    average: bool = False
    """Use the moving average of the parameters, which runs with
    --objective.trajectory=mesa keep."""


DEFAULT_PROMPT = "Fellow citizens,"


def generate(flags: Flags) -> None:
    """Continue a prompt with a run's model, or ask for prompts.

    Raises:
      ConfigError: if there is no such run or checkpoint, `average` is set but the run
        keeps no average, or a value is wrong.
      DataError: if the run's tokenizer cannot be read.
    """
    check_seed(flags.seed)  # before anything is read
    run = load(flags.run, step=flags.step, average=flags.average, dtype=flags.dtype)
    options: dict[str, Any] = {
        name: getattr(flags, name)
        for name in ("tokens", "temperature", "top_k", "top_p")
    }
    if flags.prompt is None and sys.stdin.isatty():
        _converse(run, options, seed=flags.seed)
        return
    prompt = flags.prompt
    if prompt is None:
        prompt = DEFAULT_PROMPT
        if _has_input():  # not read unasked: a pipe that nobody writes to never ends
            print("standard input is not read; --prompt=- reads it", file=sys.stderr)
    elif prompt == "-":
        prompt = _read_input()
    print(prompt + run.generate(prompt, seed=flags.seed, **options))


def _has_input() -> bool:
    """Return whether standard input is a pipe or a file."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or not of the system
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_input() -> str:
    """Read a prompt from standard input, without the end of its last line."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompt=-: standard input is not UTF-8: {error}") from None
    except (AttributeError, OSError, ValueError):
        raise ConfigError("--prompt=-: standard input cannot be read") from None
    return text.removesuffix("\n")


def _converse(run: Run, options: dict[str, Any], *, seed: int) -> None:
    """Continue the prompts that a person types; each has the next seed."""
    sampling = make_sampling(**options, seed=seed)
    check_values(sampling, vocab_size=run.tokenizer.vocab_size)  # before a prompt
    print(f"{run.directory}, step {run.step}: compiling", flush=True)
    compile_stream(run.model, run.variables, sampling)  # no prompt waits for it later
    print("Ctrl-C stops a text, Ctrl-D ends")
    for number in itertools.count():
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        pieces = run.stream(prompt, seed=(seed + number) % 2**32, **options)
        print(prompt, end="", flush=True)
        with suppress(KeyboardInterrupt):
            for piece in pieces:
                print(piece, end="", flush=True)
        print()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        generate(parse_flags(Flags, words, program=PROGRAM))
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
