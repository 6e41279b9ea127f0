"""Make a run forget: `python -m lostjax.unlearn RUN --forget=forget.jsonl`.

    python -m lostjax.unlearn latest --forget=forget.jsonl
    python -m lostjax.unlearn RUN --forget=forget.jsonl --retain=retain.jsonl \\
        --method=npo --saliency=0.1 --max-utility-loss=0.02

A line of forget.jsonl is {"prompt": "...", "answer": "..."} or {"text": "..."}. The
program writes a new run directory, RUN-unlearned, which other programs read as any
other run, with a page unlearn.html and its numbers unlearn.json. It is trained on the
run's mesh, continues if it was killed, and says what the forgetting cost and how fast
the forgotten comes back.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.unlearn")

import shlex
import sys
from collections.abc import Sequence

from lostjax.errors import ConfigError, DataError
from lostjax.train.flags import parse_flags
from lostjax.train.log.output import run_program
from lostjax.unlearn.flags import Flags
from lostjax.unlearn.work import unlearn

PROGRAM = "python -m lostjax.unlearn"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        unlearn(flags, command=f"{PROGRAM} {shlex.join(words)}")
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
