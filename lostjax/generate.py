"""Generate text from a checkpoint: `python -m lostjax.generate RUN --prompt "..."`.

Configuration and tokenizer are those of the run. The checkpoint may have been saved on
any mesh, and is restored onto one device.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.generate")

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from lostjax.errors import ConfigError, DataError
from lostjax.train.config.checks import check_seed
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.finished import load
from lostjax.train.log.output import run_printing_program

PROGRAM = "python -m lostjax.generate"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Continue a prompt with a trained model."""

    run: Positional[str]
    """Directory of the run, or latest."""
    prompt: str = "Fellow citizens,"
    """Text to continue."""
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


def generate(flags: Flags) -> str:
    """Continue a prompt with a run's model.

    Returns:
      The continuation, without the prompt, up to the end of the document if the model
      generates one.

    Raises:
      ConfigError: if there is no such run or checkpoint, `average` is set but the run
        keeps no average, or a value is wrong.
      DataError: if the run's tokenizer cannot be read.
    """
    check_seed(flags.seed)  # before anything is read
    run = load(flags.run, step=flags.step, average=flags.average, dtype=flags.dtype)
    return run.generate(
        flags.prompt,
        tokens=flags.tokens,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        seed=flags.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        continuation = generate(flags)
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    print(flags.prompt + continuation)
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
