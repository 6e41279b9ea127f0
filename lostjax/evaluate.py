"""Score a run on a text: `python -m lostjax.evaluate RUN --data.source=FILE`.

Configuration and tokenizer are those of the run. Bits per byte can be compared between
tokenizers, the other numbers between models of one tokenizer.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.evaluate")

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Literal

from lostjax.errors import ConfigError, DataError
from lostjax.train.evaluate import Scores
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.interface.finished import load
from lostjax.train.log.output import run_printing_program
from lostjax.view.numbers import format_count, format_loss, format_perplexity

PROGRAM = "python -m lostjax.evaluate"


@dataclasses.dataclass(frozen=True)
class TextFlags:
    """The text."""

    source: str | None = None
    """Text, as the trainer's --data.source names it; default the run's held-out text.
    All of it is used."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Score a trained model on a text."""

    run: Positional[str]
    """Directory of the run, or latest."""
    data: TextFlags = TextFlags()
    top_k: int = 5
    """k of the top-k accuracy."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to which the parameters are rounded in memory."""
    average: bool = False
    """Use the moving average of the parameters, which runs with
    --objective.trajectory=mesa keep."""
    json: bool = False
    """Print one line of JSON instead of a table."""


def format_scores(scores: Scores) -> str:
    """Write scores as lines of a name and a value, the comparable ones first."""
    rows = [
        ("bits per byte", format_loss(scores.bits_per_byte)),
        ("perplexity", format_perplexity(scores.perplexity)),
        ("loss, nats per token", format_loss(scores.loss)),
        ("accuracy", f"{100 * scores.accuracy:.2f} %"),
        (f"top-{scores.top_k} accuracy", f"{100 * scores.top_k_accuracy:.2f} %"),
        ("expected calibration error", f"{100 * scores.calibration_error:.2f} %"),
        ("tokens", format_count(scores.tokens)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        run = load(flags.run, step=flags.step, average=flags.average, dtype=flags.dtype)
        scores = run.evaluate(flags.data.source, top_k=flags.top_k)
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    text = flags.data.source or "its held-out text"
    if flags.json:
        facts = {"run": str(run.directory), "step": run.step, "text": text}
        print(json.dumps(facts | scores._asdict()))
    else:
        print(f"{run.directory}, step {run.step}, on {text}\n{format_scores(scores)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
