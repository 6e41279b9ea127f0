"""The directory of a run: chosen, checked, and made only when all else is known good.

RUN/config.json      what the run is           RUN/checkpoints/STEP/   its states
RUN/tokenizer.json   (or .model) its tokens    RUN/report.html         what came out
RUN/metrics.jsonl    a line a step             RUN/tensorboard/, profile/
RUN/stability.jsonl  a line a reading, where asked for
RUN/data.json        what the text was           RUN/lock     who writes it now
RUN/stopped.json     why a run was stopped by its guard: see `train.watch.diagnosis`
"""

import datetime
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lostjax.disk.files import is_temporary, replace_file
from lostjax.disk.lock import LOCK, hold_lock
from lostjax.errors import ConfigError
from lostjax.train.config.fields import diff_configs
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_config, save_config
from lostjax.train.keep.step_directories import list_steps, step_dir
from lostjax.view.numbers import format_bytes

RUNS = Path("runs")
"""Where runs go when no directory is given, under the working directory."""

CHECKPOINTS = "checkpoints"
"""The directory of a run's checkpoints."""

REPORT = "report.html"
"""What a finished run came to; a run without it is not finished."""

DATA_FILE = "data.json"


def find_run(name: str, *, runs: Path = RUNS) -> Path:
    """Find an existing run by its directory, or the `latest` one, which is said.

    Which of those in `runs` was made last is told by the dates of their files, which
    `hold_run_dir` keeps in order also where the clock was set back.

    Raises:
      ConfigError: where there is no such run.
    """
    if name == "latest":
        dates = _dates(runs)
        if not dates:
            raise ConfigError(f"latest: there is no run in {runs.absolute()}")
        latest = max(dates, key=lambda directory: dates[directory])
        print(f"latest: {latest}", file=sys.stderr)
        return latest
    try:
        found = (Path(name) / "config.json").is_file()
    except PermissionError:
        raise ConfigError(f"{name}: no permission to read it") from None
    if not found:
        raise ConfigError(f"{name}: no run is there (no config.json)")
    return Path(name)


def _dates(runs: Path) -> dict[Path, int]:
    """List the runs in a directory with when they were made, in ns."""
    dates = {}
    for path in runs.glob("*/config.json"):
        with suppress(FileNotFoundError):  # it was removed meanwhile
            dates[path.parent] = path.stat().st_mtime_ns
    return dates


def _date_last(directory: Path) -> None:
    """Date a new run after those beside it, whatever the clock says."""
    others = _dates(directory.parent)
    mine = others.pop(directory)
    last = max(others.values(), default=0)
    if mine <= last:
        os.utime(directory / "config.json", ns=(last + 10**9, last + 10**9))


def choose_run_dir(config: TrainConfig) -> Path:
    """Choose the directory of a run and refuse one that cannot be it. Writes nothing.

    Returns:
      The directory; it may not exist yet.

    Raises:
      ConfigError: where the directory is a file, holds something that is not a run,
        holds a run of another configuration, or cannot be written.
    """
    try:
        directory = Path(config.run_dir) if config.run_dir else _new_dir(config.preset)
        _check_place(directory, config)
    except PermissionError as error:
        raise ConfigError(
            f"--run-dir: no permission to read {error.filename}"
        ) from None
    return directory


def _new_dir(preset: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = RUNS / f"{preset}-{stamp}"
    number = 1
    while directory.exists():
        number += 1
        directory = RUNS / f"{preset}-{stamp}-{number}"
    return directory


def _check_place(directory: Path, config: TrainConfig) -> None:
    flag = f"--run-dir={directory}"
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{flag}: is a file, not a directory")
    if (directory / "config.json").exists():
        _check_same_run(directory, config)
    elif directory.exists() and any(not _is_leftover(p) for p in directory.iterdir()):
        raise ConfigError(
            f"{flag}: holds files but no run; give a new or an empty directory"
        )
    standing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not standing.is_dir():
        raise ConfigError(f"{flag}: {standing} is a file, not a directory")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag}: no permission to write in {standing}")


def _check_same_run(directory: Path, config: TrainConfig) -> None:
    stored = load_config(directory / "config.json")
    differences = diff_configs(stored, config)
    if not differences:
        return
    flag = f"--run-dir={directory}"
    if config.steps > stored.steps and len(differences) == 1:
        raise ConfigError(
            f"{flag}: its learning-rate schedule has {stored.steps} steps and cannot "
            f"become {config.steps}; start a new run: --run-dir NEW "
            f"--steps={config.steps}"
        )
    raise ConfigError(
        f"{flag}: holds a run of another configuration ({'; '.join(differences)}); "
        f"go on with it by --resume={directory}, or give another directory"
    )


def check_same_data(directory: Path, identity: Mapping[str, int | str]) -> None:
    """Refuse to go on with a run on other text or tokens than it began with.

    Args:
      directory: of the run; it may not exist yet.
      identity: as `Data.identity` gives it.

    Raises:
      ConfigError: listing what differs, or where what the run wrote cannot be read.
    """
    path = directory / DATA_FILE
    if not path.exists():  # a new run, or one of an earlier version
        return
    try:
        stored = json.loads(path.read_bytes())
        there = {name: stored[name] for name in identity}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(
            f"{path}: cannot be read; if the data is what the run began with, remove it"
        ) from None
    differences = [
        f"{name}: {there[name]} there, {value} now"
        for name, value in identity.items()
        if there[name] != value
    ]
    if differences:
        raise ConfigError(
            f"--run-dir={directory}: holds a run on other data "
            f"({'; '.join(differences)}); give it that data, or another directory"
        )


@contextmanager
def hold_run_dir(
    directory: Path,
    config: TrainConfig,
    *,
    identity: Mapping[str, int | str],
    needed: int,
) -> Iterator[None]:
    """Make a run's directory, describe the run in it, and be its only writer.

    Args:
      directory: as `choose_run_dir` gave it.
      config: is written unless one is there.
      identity: of the data; is written unless one is there.
      needed: bytes that the run will certainly have on disk: its checkpoints.

    Raises:
      ConfigError: where another process writes the run, the disk has no room or cannot
        be written. A directory that was not there before is not there then either.
    """
    fresh = not directory.exists()
    with ExitStack() as stack:
        with refusing_disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(hold_lock(directory))
            except OSError:
                if fresh:
                    directory.rmdir()
                raise
            try:
                _remove_leftovers(directory)
                _check_room(directory, config, needed=needed)
                if not (directory / "config.json").exists():
                    save_config(directory / "config.json", config)
                    if directory.absolute().parent == RUNS.absolute():
                        _date_last(directory)
                if not (directory / DATA_FILE).exists():
                    text = json.dumps(dict(identity), indent=2) + "\n"
                    replace_file(directory / DATA_FILE, text.encode())
            except (OSError, ConfigError):
                if fresh:
                    shutil.rmtree(directory, ignore_errors=True)
                raise
        yield


@contextmanager
def refusing_disk_errors(directory: Path) -> Iterator[None]:
    """Turn a disk that cannot be written into a `ConfigError`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--run-dir={directory}: cannot be written: {error.strerror or error}"
        ) from None


def _check_room(directory: Path, config: TrainConfig, *, needed: int) -> None:
    checkpoints = directory / CHECKPOINTS
    there = sum(
        path.stat().st_size
        for step in list_steps(checkpoints)[-config.keep :]
        for path in step_dir(checkpoints, step).rglob("*")
    )
    free = shutil.disk_usage(directory).free
    if free + there < needed:
        raise ConfigError(
            f"--run-dir={directory}: {format_bytes(free)} are free on its disk, "
            f"but the checkpoints need {format_bytes(needed - there)}; make room, or "
            f"keep fewer (--keep={config.keep})"
        )


def _is_leftover(path: Path) -> bool:
    """Say whether a file is nothing: of a run that was killed before it was one."""
    return path.name == LOCK or is_temporary(path) or path.name.startswith(".making-")


def _remove_leftovers(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name.startswith(".making-"):
            shutil.rmtree(path, ignore_errors=True)
        elif is_temporary(path):
            path.unlink(missing_ok=True)
