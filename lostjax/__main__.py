"""`python -m lostjax`: list the programs, or with `--version` print the version."""

import sys
from collections.abc import Sequence

from lostjax import __version__
from lostjax.train.log.output import run_printing_program

PROGRAMS = {
    "train": "train a language model and report on it",
    "generate": "continue a prompt with a trained model",
    "evaluate": "score a trained model on a text",
    "prune": "remove weights of a trained model and measure what it costs",
    "unlearn": "make a trained model forget examples and measure what it costs",
    "attribute": "show which tokens of a text the next ones rest on",
    "plan": "compile a training step for hardware that need not be here",
    "sweep": "compare learning rates and widths by short runs",
    "scaling": "fit scaling laws to runs, and forecast",
    "verify": "check that every checkpoint of a run is whole",
    "repro": "measure a paper's headline claim again",
}
"""Programs by name, each started as `python -m lostjax.NAME`."""
_NAMES = ", ".join(PROGRAMS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list, or the version; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] == "--version":
        print(f"lostjax {__version__}")
        return 0
    if words and words[0] not in ("-h", "--help"):
        name = words[0].lstrip("-")
        known = name in PROGRAMS
        hint = f"use python -m lostjax.{name}" if known else f"there are {_NAMES}"
        print(f"python -m lostjax: error: {words[0]}: {hint}", file=sys.stderr)
        return 2
    for name, purpose in PROGRAMS.items():
        print(f"python -m lostjax.{name:<9} {purpose}")
    print("\nEach has --help and --version.")
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
