"""`python -m lostjax.repro NAME`: measure a paper's headline claim again.

Prints its verdict and tables, and writes them with a figure. Trained cells are kept, so
a run that was stopped goes on where it was, and one that is done takes seconds.

RESULTS/NAME-SCALE.json  rows and findings    RESULTS/NAME-SCALE.md   for readers
RESULTS/NAME-SCALE.svg   the figure           RESULTS/cells/NAME-SCALE/  single runs
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from lostjax.data import DataError
from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError
from lostjax.repro.claims import Claim, save_claim
from lostjax.repro.figure import draw_claim
from lostjax.repro.papers import (
    frugal,
    lost,
    reweighting,
    reweighting_toy,
    saf,
    saf_digits,
    stability,
)
from lostjax.repro.tables import replace_block, write_block, write_page
from lostjax.repro.tune import SweepError
from lostjax.train.flags import normalise, parse_flags

PROGRAM = "python -m lostjax.repro"

PAPERS = {
    "lost": lost,
    "frugal": frugal,
    "saf": saf,
    "saf_digits": saf_digits,
    "reweighting": reweighting,
    "reweighting_toy": reweighting_toy,
    "stability": stability,
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """Measure a paper's headline claim again: seeds, spread and a verdict."""

    name: tyro.conf.Positional[
        Literal[
            "lost",
            "frugal",
            "saf",
            "saf_digits",
            "reweighting",
            "reweighting_toy",
            "stability",
        ]
    ]
    """Which paper."""
    scale: Literal["smoke", "small"] = "small"
    """smoke: a minute, shows that it works; small: an hour on two cores, but for
    reweighting_toy and saf_digits, which take seconds to minutes."""
    seeds: int = 3
    """Runs of each method at its best learning rate, at least 2."""
    workers: int = 2
    """Methods that train at once, each on one CPU core."""
    results: str = "results"
    """Directory of tables, figures and trained cells."""
    readme: str | None = None
    """Also put the verdict between this file's markers for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        flags = parse_flags(
            Flags, [normalise(word) for word in words], default=None, program=PROGRAM
        )
        print(measure(flags), end="")
    except (ConfigError, DataError, SweepError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, SweepError) else 2
    return 0


def measure(flags: Flags) -> str:
    """Measure a claim and write what came out; gives its page.

    Raises:
      ConfigError, DataError: for a wrong flag, before anything is trained.
      SweepError: where a method's best learning rate was not found.
    """
    if flags.seeds < 2:
        raise ConfigError(f"--seeds={flags.seeds}: a spread needs at least 2")
    if flags.workers < 1:
        raise ConfigError(f"--workers={flags.workers}: must be at least 1")
    results = Path(flags.results)
    paper = PAPERS[flags.name]
    scale = paper.SCALES[flags.scale]
    name = f"{flags.name}-{scale.name}"
    cells = results / "cells" / name
    readme = Path(flags.readme) if flags.readme else None
    try:
        if readme:
            replace_block(readme.read_text("utf-8"), name, "")  # refuse before training
        cells.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    claim = paper.run(scale, seeds=flags.seeds, directory=cells, workers=flags.workers)
    write_claim(results, claim)
    if readme:
        block = write_block(claim, folder=os.path.relpath(results, readme.parent))
        text = replace_block(readme.read_text("utf-8"), name, block)
        replace_file(readme, text.encode())
    return write_page(claim)


def write_claim(results: Path, claim: Claim) -> None:
    """Write a claim as JSON, Markdown and SVG."""
    stem = results / claim.name
    save_claim(stem.with_suffix(".json"), claim)
    replace_file(stem.with_suffix(".md"), write_page(claim).encode())
    replace_file(stem.with_suffix(".svg"), draw_claim(claim).encode())


if __name__ == "__main__":
    sys.exit(main())
