"""Check the files of a run beside its checkpoints, and adopt those without a hash.

    config.json, data.json      sealed: they decide the numbers
    tokenizer.json or .model    with its hash beside it
    commands.jsonl              chained lines, the last one marked
    other *.jsonl               chained lines, up to the newest checkpoint

Files of runs that earlier versions made have no hash. They are read as they are.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lostjax.disk.chain import Line, chain_lines, describe_damage, read_chain
from lostjax.disk.files import replace_file
from lostjax.disk.lock import hold_lock
from lostjax.disk.seal import (
    SealError,
    fits_hash_beside,
    read_sealed,
    seal,
    write_with_hash,
)
from lostjax.errors import ConfigError
from lostjax.train.config.stored import CONFIG_FILE, load_run_config
from lostjax.train.keep.commands import (
    adopt_commands,
    find_damage,
    read_command_lines,
)
from lostjax.train.keep.identity import ADOPTED
from lostjax.train.keep.layout import (
    CHECKPOINTS,
    COMMANDS_FILE,
    DATA_FILE,
    LINES_FILES,
    REPORT,
    TOKENIZER_FILES,
)
from lostjax.train.keep.step_directories import list_steps
from lostjax.train.log.json_lines import (
    EVALUATED,
    EVALUATIONS_FILE,
    METRICS_FILE,
    READING,
    STABILITY_FILE,
    describe_gap,
)


class Checked(NamedTuple):
    """What is known of one file."""

    name: str
    state: str
    """`whole`, `NO HASH`, `DAMAGED`, `MISSING`, `INCOMPLETE` or `SET ASIDE`."""
    details: str


def check_files(directory: Path) -> list[Checked]:
    """Check the files of a run beside its checkpoints.

    Args:
      directory: the run's directory; the run may be training.

    Returns:
      A row for each file that is there or is missing.

    Raises:
      OSError: if a file cannot be read.
    """
    aside = [
        Checked(path.name, "SET ASIDE", "damaged; delete it when it is not needed")
        for path in sorted(directory.glob("*.damaged*"))
    ]
    sealed = _check_config(directory)
    return [
        sealed,
        *_check_data(directory, needed=sealed.state != "NO HASH"),
        *_check_tokenizers(directory),
        *_check_commands(directory, needed=sealed.state != "NO HASH"),
        *_check_logs(directory),
        *aside,
    ]


def list_unvouched(directory: Path) -> list[str]:
    """List the files that have no hash in a run of an earlier version."""
    if _check_config(directory).state != "NO HASH":
        return []  # the others are not read twice in every other run
    return [row.name for row in check_files(directory) if row.state == "NO HASH"]


def print_damage(directory: Path) -> int:
    """Print a line for each file of a finished run that is damaged or not whole.

    Returns:
      The number of these files.
    """
    try:
        rows = check_files(directory)
    except OSError as error:
        print(f"{error.filename}: cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    bad = [row for row in rows if row.state in ("DAMAGED", "MISSING", "INCOMPLETE")]
    for row in bad:
        print(f"{directory / row.name}: {row.details}", file=sys.stderr)
    return len(bad)


def adopt_files(directory: Path) -> None:
    """Write hashes of files that have none; what does not fit its hash stays as it is.

    Raises:
      ConfigError: if another process writes the run.
      OSError: if a file cannot be written.
    """
    with hold_lock(directory):
        _adopt_sealed(directory / CONFIG_FILE)
        if (directory / DATA_FILE).exists():
            _adopt_sealed(directory / DATA_FILE)
        else:  # of an earlier version, or lost
            replace_file(directory / DATA_FILE, seal(ADOPTED))
        for name in TOKENIZER_FILES:
            path = directory / name
            if path.exists() and fits_hash_beside(path) is None:
                write_with_hash(path, path.read_bytes())
        adopt_commands(directory)
        for name in LINES_FILES:
            lines = _read_lines(directory / name)
            if _lacks_hashes(lines):
                rows = [line.values for line in lines if line.values is not None]
                replace_file(directory / name, chain_lines(rows))


def _adopt_sealed(path: Path) -> None:
    try:
        sealed = read_sealed(path)
    except SealError:
        return
    if not sealed.is_sealed and isinstance(sealed.values, dict) and sealed.values:
        replace_file(path, seal(sealed.values))


def _check_config(directory: Path) -> Checked:
    path = directory / CONFIG_FILE
    try:
        sealed = read_sealed(path).is_sealed
        load_run_config(directory)
    except SealError as error:
        return Checked(path.name, "DAMAGED", str(error))
    except ConfigError as error:
        details = str(error).removeprefix(f"{path}: ").partition(";")[0]
        return Checked(path.name, "DAMAGED", details)
    return _by_hash(path.name, sealed)


def _check_data(directory: Path, *, needed: bool) -> Iterator[Checked]:
    try:
        sealed = read_sealed(directory / DATA_FILE)
    except FileNotFoundError:
        if needed and list_steps(directory / CHECKPOINTS):
            yield Checked(DATA_FILE, "MISSING", "nothing tells which text it began on")
    except SealError as error:
        yield Checked(DATA_FILE, "DAMAGED", str(error))
    else:
        if needed and not sealed.is_sealed:
            yield Checked(DATA_FILE, "DAMAGED", "was edited: its hash is missing")
        else:
            yield _by_hash(DATA_FILE, sealed.is_sealed)


def _check_tokenizers(directory: Path) -> Iterator[Checked]:
    there = [name for name in TOKENIZER_FILES if (directory / name).exists()]
    for name in there:
        fits = fits_hash_beside(directory / name)
        if fits is False:
            yield Checked(
                name, "DAMAGED", "does not fit its hash; a resume restores it"
            )
        else:
            yield _by_hash(name, fits is True)
    if not there and list_steps(directory / CHECKPOINTS):
        yield Checked(TOKENIZER_FILES[0], "MISSING", "a resume writes it again")


def _check_commands(directory: Path, *, needed: bool) -> Iterator[Checked]:
    if damage := find_damage(directory):
        yield Checked(COMMANDS_FILE, "DAMAGED", damage)
    elif lines := read_command_lines(directory):
        yield _check_lines(COMMANDS_FILE, lines, end=0)
    elif needed and list_steps(directory / CHECKPOINTS):
        yield Checked(COMMANDS_FILE, "MISSING", "earlier commands are lost")


def _check_logs(directory: Path) -> Iterator[Checked]:
    before = list_steps(directory / CHECKPOINTS)
    metrics = _read_lines(directory / METRICS_FILE)
    # A run that trains may have rolled back meanwhile, and deleted steps.
    after = set(list_steps(directory / CHECKPOINTS))
    ends = {METRICS_FILE: max((step for step in before if step in after), default=0)}
    ends[EVALUATIONS_FILE] = ends[STABILITY_FILE] = 0
    for line in metrics:
        if line.values is not None:
            ends[EVALUATIONS_FILE] = _whole(line.values, EVALUATED)
            if READING in line.values:
                ends[STABILITY_FILE] = line.values["step"]
    if (directory / REPORT).exists():  # which the last evaluation comes before
        ends[EVALUATIONS_FILE] = max(ends[EVALUATIONS_FILE], ends[METRICS_FILE])
    for name in LINES_FILES:
        lines = metrics if name == METRICS_FILE else _read_lines(directory / name)
        if (directory / name).exists() or ends[name]:
            yield _check_lines(name, lines, end=ends[name])


def _check_lines(name: str, lines: list[Line], *, end: int) -> Checked:
    rows = [line.values for line in lines if line.values is not None]
    last = rows[-1]["step"] if rows else 0
    if damage := describe_damage(lines):
        return Checked(name, "DAMAGED", damage)
    if gap := describe_gap(last, end):
        return Checked(name, "INCOMPLETE", gap)
    if _lacks_hashes(lines):
        return _by_hash(name, sealed=False)
    return Checked(name, "whole", f"{len(lines)} line{'s' * (len(lines) != 1)}")


def _by_hash(name: str, sealed: bool) -> Checked:
    if sealed:
        return Checked(name, "whole", "")
    return Checked(name, "NO HASH", "not vouched for; --adopt accepts it as it is")


def _lacks_hashes(lines: list[Line]) -> bool:
    """Return whether there are lines, and none vouches for them."""
    return bool(lines) and not any(line.is_hashed for line in lines)


def _read_lines(path: Path) -> list[Line]:
    return read_chain(path.read_bytes()) if path.exists() else []


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 0)
    return value if type(value) is int else 0
