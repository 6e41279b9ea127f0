"""`python -m lostjax.repro NAME`: measure a paper's headline claim again.

Prints a table with an honest verdict and writes it as JSON. Trained cells are kept, so
a run that was stopped goes on where it was.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from lostjax.data import DataError
from lostjax.repro import lost
from lostjax.repro.claims import save_claim, tabulate_claim
from lostjax.train.__main__ import normalise, parse_flags
from lostjax.train.config import ConfigError

PROGRAM = "python -m lostjax.repro"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Measure a paper's headline claim again: seeds, spread and a verdict."""

    name: tyro.conf.Positional[Literal["lost"]]
    """Which paper."""
    scale: Literal["smoke", "small"] = "small"
    """smoke: a minute, shows that it works; small: hours on two cores."""
    seeds: int = 3
    """Runs of each method at its best learning rate, at least 2."""
    workers: int = 2
    """Processes that train at once, each on one CPU core."""
    cells: str = "runs/repro"
    """Where trained cells are kept."""
    out: str = "results"
    """Where NAME-SCALE.json and NAME-SCALE.md are written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = [normalise(word) for word in (arguments or sys.argv[1:])]
    try:
        flags = parse_flags(Flags, words, default=None, program=PROGRAM)
        if flags.seeds < 2:
            raise ConfigError(f"--seeds={flags.seeds}: a spread needs at least 2")
        if flags.workers < 1:
            raise ConfigError(f"--workers={flags.workers}: must be at least 1")
        claim = lost.run(
            lost.SCALES[flags.scale],
            seeds=flags.seeds,
            directory=Path(flags.cells) / flags.name,
            workers=flags.workers,
        )
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    table = tabulate_claim(claim)
    save_claim(Path(flags.out) / f"{flags.name}-{flags.scale}", claim)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
