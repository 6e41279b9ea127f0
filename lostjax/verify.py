"""Verify every file that a run stands on: `python -m lostjax.verify RUN`.

One line per file and per checkpoint is printed, the oldest checkpoint first:

    config.json    whole
    metrics.jsonl  whole    2000 lines
    step 1000      whole    1.21 GB
    step 2000      DAMAGED  model/d/0: bytes 0 to 16777216 differ

The exit code is 0 if all are whole; 1 if one is damaged, was set aside, ends too early
or has no hashes; 2 if there is no such run or it cannot be read. Without `--adopt`
nothing is changed. A run may be verified while it is training.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.verify")

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from lostjax.disk.manifest import read_manifest, write_manifest
from lostjax.errors import ConfigError
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.keep.directory import CHECKPOINTS, find_run
from lostjax.train.keep.run_files import adopt_files, check_files
from lostjax.train.keep.step_directories import (
    find_step_damage,
    list_bare_steps,
    list_set_aside,
    list_steps,
    step_dir,
)
from lostjax.train.log.output import run_printing_program
from lostjax.view.numbers import format_bytes

PROGRAM = "python -m lostjax.verify"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Check every file and checkpoint of a run against its hashes."""

    run: Positional[str]
    """Directory of the run, or latest."""
    adopt: bool = False
    """First write hashes of what has none, such as files and checkpoints of earlier
    versions, which are assumed to be whole. What does not fit its hash is left as it
    is."""


def verify(directory: Path) -> list[tuple[str, str, str]]:
    """Check the files and the checkpoints of a run.

    Args:
      directory: the run's directory.

    Returns:
      (name, condition, details) of each file; then of each checkpoint: committed steps,
      then steps without a manifest, then those that were set aside. A good one's
      condition is "whole".

    Raises:
      OSError: if a directory cannot be read.
    """
    place = directory / CHECKPOINTS
    rows: list[tuple[str, str, str]] = list(check_files(directory))
    for step in list_steps(place):
        path = step_dir(place, step)
        damage = find_step_damage(path)
        if not path.exists():  # the run has deleted it meanwhile
            continue
        size = 0 if damage else sum(e.size for e in read_manifest(path).values())
        state = "DAMAGED" if damage else "whole"
        rows.append((f"step {step}", state, "; ".join(damage) or format_bytes(size)))
    for step in list_bare_steps(place):
        details = "it does not count; --adopt accepts it as it is"
        rows.append((f"step {step}", "NO MANIFEST", details))
    for path in list_set_aside(place):
        details = "damaged; delete it when it is no longer needed"
        rows.append((path.name, "SET ASIDE", details))
    return rows


def adopt(directory: Path) -> None:
    """Write hashes of files and checkpoints that have none, whatever they contain.

    Raises:
      ConfigError: if another process writes the run, or a file cannot be written.
    """
    place = directory / CHECKPOINTS
    try:
        adopt_files(directory)
        for step in list_bare_steps(place):
            write_manifest(step_dir(place, step))
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        directory = find_run(flags.run)
        if flags.adopt:
            adopt(directory)
    except ConfigError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    try:
        rows = verify(directory)
    except OSError as error:
        where = error.filename or directory
        print(
            f"{PROGRAM}: error: {where}: cannot be read: {error.strerror}",
            file=sys.stderr,
        )
        return 2
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, state, details in rows:
        print(f"{name:<{widths[0]}}  {state:<{widths[1]}}  {details}".rstrip())
    place = directory / CHECKPOINTS
    if not (list_steps(place) or list_bare_steps(place) or list_set_aside(place)):
        print(f"{directory}: no checkpoint yet")
    return 0 if all(state == "whole" for _, state, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
