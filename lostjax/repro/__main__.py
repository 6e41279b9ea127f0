"""`python -m lostjax.repro NAME`: measure a paper's headline claim again.

Without a name it lists all papers with their verdicts. With one it prints the paper's
page and writes it; trained cells are kept, so that a run that was stopped continues
there, and one that is done takes seconds.

RESULTS/NAME-SCALE.json  rows and findings    RESULTS/NAME-SCALE.md   for readers
RESULTS/NAME-SCALE.svg   the figure           RESULTS/README.md       all claims
RESULTS/cells/NAME-SCALE.jsonl  single runs
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.repro")

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from lostjax.data import DataError
from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.repro.claims import Claim, Tally, read_tally, save_claim
from lostjax.repro.experiment import find_scale, measure_claim
from lostjax.repro.papers import list_papers, load_paper
from lostjax.repro.tables import draw_claim, list_claims, write_overview, write_page
from lostjax.repro.tune import SweepError
from lostjax.train.flags import parse_flags
from lostjax.train.log.output import run_program

PROGRAM = "python -m lostjax.repro"

COMMITTED = "small"
"""Scale of the claims that the overview lists."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Measure a paper's claim again: `python -m lostjax.repro NAME`.

    Without a name all papers are listed with their verdicts.
    """

    scale: str = COMMITTED
    """smoke: a minute, shows that it works; small: what is committed, up to an hour on
    two cores."""
    seeds: int | None = None
    """Runs of each method at its best learning rate, at least 2; default: the paper's
    own number."""
    workers: int | None = None
    """Methods that train at once, each on one CPU core; default: 2 for language models,
    1 for all else."""
    results: str = "results"
    """Directory of pages, figures and trained cells."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name = _take_name(words)
        flags = parse_flags(Flags, words, program=PROGRAM)
        print(measure(name, flags) if name else list_all(flags), end="")
    except (ConfigError, DataError, SweepError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    return 0


def measure(name: str, flags: Flags) -> str:
    """Measure a claim, write what came out, and return its page.

    Raises:
      ConfigError, DataError: for a wrong name or flag, before anything is trained.
      SweepError: if a method's best learning rate was not found.
      OSError: if something cannot be written; the cells so far are kept.
    """
    experiment = load_paper(name)
    find_scale(experiment, flags.scale)
    workers = flags.workers
    if workers is None:
        workers = 2 if experiment.train is None else 1
    if workers < 1:
        raise ConfigError(f"--workers={workers}: must be at least 1")
    seeds = experiment.seeds if flags.seeds is None else flags.seeds
    if seeds < 2:
        raise ConfigError(f"--seeds={seeds}: a spread needs at least 2")
    results = read_path(flags.results, flag="--results")
    cells = results / "cells" / f"{name}-{flags.scale}.jsonl"
    try:
        cells.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    claim = measure_claim(
        name,
        experiment,
        scale=flags.scale,
        seeds=seeds,
        cells=cells,
        workers=workers,
        load=load_paper,
    )
    write_claim(results, claim)
    return write_page(claim)


def write_claim(results: Path, claim: Claim) -> None:
    """Write a claim as JSON, Markdown and SVG, and the overview of all claims."""
    stem = results / claim.name
    save_claim(stem.with_suffix(".json"), claim)
    replace_file(stem.with_suffix(".md"), write_page(claim).encode())
    replace_file(stem.with_suffix(".svg"), draw_claim(claim).encode())
    tallies = {
        f"{name}-{COMMITTED}": tally for name, tally in read_tallies(results).items()
    }
    if tallies:
        replace_file(results / "README.md", write_overview(tallies).encode())


def list_all(flags: Flags) -> str:
    """List all papers with the verdicts that are in the results' directory."""
    results = read_path(flags.results, flag="--results")
    tallies = read_tallies(results, scale=flags.scale)
    listed = list_claims(list_papers(), tallies)
    if not tallies:
        listed += f"\nNothing has been measured in {flags.results}/ yet.\n"
    return f"{listed}\n`{PROGRAM} NAME` measures one.\n"


def read_tallies(results: Path, *, scale: str = COMMITTED) -> dict[str, Tally]:
    """Read the verdicts of every paper that was measured at a scale, by name.

    Raises:
      ConfigError: if a file is not a claim.
    """
    paths = {name: results / f"{name}-{scale}.json" for name in list_papers()}
    return {name: read_tally(path) for name, path in paths.items() if path.exists()}


def _take_name(words: list[str]) -> str | None:
    """Take the paper's name out of the words: the first that belongs to no flag."""
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        takes_value = before.startswith("--") and "=" not in before
        if not word.startswith("-") and (not takes_value or before == "--help"):
            return words.pop(place)
    return None


if __name__ == "__main__":
    sys.exit(run_program(main))
