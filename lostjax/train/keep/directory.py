"""Choose, check and make the directory of a run; it is made after all other checks.

RUN/config.json        the configuration
RUN/data.json          the identity of the text and its tokens
RUN/tokenizer.json     (or .model) the tokenizer
RUN/checkpoints/STEP/  states
RUN/metrics.jsonl      one line per step
RUN/stability.jsonl    one line per reading, with `--stability.every`
RUN/tensorboard/, profile/
RUN/log.txt            every line that the run printed; see `train.log.output`
RUN/commands.jsonl     the commands that started and resumed the run
RUN/report.html        the report of a finished run; -STEP.html: of an earlier end
RUN/stopped.json       why the guard stopped the run; see `train.watch.diagnosis`
RUN/lock               the process that writes the directory now
"""

import datetime
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lostjax.disk.files import is_temporary, keep_aside
from lostjax.disk.lock import LOCK, hold_lock
from lostjax.disk.paths import check_path, read_path
from lostjax.errors import ConfigError
from lostjax.train.config.fields import diff_configs
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import (
    CONFIG_FILE,
    check_resumable,
    find_original,
    load_run_config,
    save_config,
)
from lostjax.train.config.stretches import EXTENDED, is_extension, may_extend
from lostjax.train.keep.extension import write_extension
from lostjax.train.keep.identity import write_identity
from lostjax.train.keep.layout import CHECKPOINTS as CHECKPOINTS
from lostjax.train.keep.layout import REPORT as REPORT
from lostjax.train.keep.layout import refuse_links
from lostjax.train.keep.run_files import list_unvouched
from lostjax.train.keep.step_directories import (
    list_bare_steps,
    list_steps,
    step_dir,
)
from lostjax.view.numbers import format_bytes

RUNS = Path("runs")
"""Parent of the runs without `--run-dir`, relative to the working directory."""


def find_run(name: str, *, runs: Path = RUNS, with_checkpoint: bool = False) -> Path:
    """Find an existing run by its directory, or the latest one.

    Args:
      name: a run's directory; or `latest`, for the run in `runs` whose configuration
        has the latest date. `hold_run_dir` keeps these dates in order even if the clock
        is set back.
      runs: directory of the runs among which `latest` chooses.
      with_checkpoint: whether `latest` passes over runs without a checkpoint.

    Returns:
      The run's directory. It is printed to standard error for `latest`.

    Raises:
      ConfigError: if there is no such run.
    """
    if name == "latest":
        return _find_latest(runs, with_checkpoint=with_checkpoint)
    directory = read_path(name, flag="RUN")
    try:
        found = (directory / CONFIG_FILE).is_file()
    except PermissionError:
        raise ConfigError(f"{name}: no permission to read it") from None
    if not found:
        raise ConfigError(f"{name}: not a run's directory (it has no config.json)")
    refuse_links(directory)
    return directory


def _find_latest(runs: Path, *, with_checkpoint: bool) -> Path:
    """Find the latest run, print its name, and print what was passed over."""
    dates = _dates(runs)
    ordered = sorted(dates, key=lambda directory: dates[directory], reverse=True)
    if not ordered:
        raise ConfigError(f"latest: there is no run in {runs.absolute()}")
    found = (each for each in ordered if _has_checkpoint(each))
    latest = next(found, ordered[0]) if with_checkpoint else ordered[0]
    note = ""
    if latest != ordered[0]:
        note = f" ({ordered[0]} is newer, but has no checkpoint)"
    elif not _has_checkpoint(latest):
        note = " (it has no checkpoint)"
    print(f"latest: {latest}{note}", file=sys.stderr)
    refuse_links(latest)
    return latest


def _has_checkpoint(directory: Path) -> bool:
    place = directory / CHECKPOINTS
    return bool(list_steps(place) or list_bare_steps(place))


def _dates(runs: Path) -> dict[Path, int]:
    """Return the modification time in ns of each run's configuration."""
    dates = {}
    for path in runs.glob("*/config.json"):
        with suppress(FileNotFoundError):  # the run was removed meanwhile
            dates[path.parent] = path.stat().st_mtime_ns
    return dates


def _date_last(directory: Path) -> None:
    """Date a new run after all others in its parent, even if the clock was set back."""
    others = _dates(directory.parent)
    mine = others.pop(directory)
    last = max(others.values(), default=0)
    if mine <= last:
        os.utime(directory / CONFIG_FILE, ns=(last + 10**9, last + 10**9))


def choose_run_dir(config: TrainConfig, *, flag: str = "--run-dir") -> Path:
    """Choose and check the directory of a run; nothing is written.

    Args:
      config: the run.
      flag: that named the directory, for messages.

    Returns:
      The directory; it may not exist yet.

    Raises:
      ConfigError: if the path cannot be used (see `disk.paths`), or the directory is a
        file, holds other files than a run's, holds a run of another configuration, or
        cannot be written.
    """
    try:
        if config.run_dir:
            directory = read_path(config.run_dir, flag="--run-dir")
        else:
            directory = _new_dir(config.preset)
            check_path(directory, flag="--run-dir")
        _check_place(directory, config, flag=f"{flag}={directory}")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        if isinstance(error, PermissionError):
            what = f"no permission to read {error.filename}"
        raise ConfigError(f"--run-dir: {what}") from None
    return directory


def _new_dir(preset: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = RUNS / f"{preset}-{stamp}"
    number = 1
    while directory.exists():
        number += 1
        directory = RUNS / f"{preset}-{stamp}-{number}"
    return directory


def _check_place(directory: Path, config: TrainConfig, *, flag: str) -> None:
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{flag}: is a file, not a directory")
    refuse_links(directory)
    if (directory / CONFIG_FILE).exists():
        _check_same_run(directory, config, flag=flag)
    elif directory.exists() and any(not _is_leftover(p) for p in directory.iterdir()):
        raise ConfigError(
            f"{flag}: holds files but no run; name a new or an empty directory"
        )
    standing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not standing.is_dir():
        raise ConfigError(f"{flag}: {standing} is a file, not a directory")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag}: no permission to write in {standing}")


def _check_same_run(directory: Path, config: TrainConfig, *, flag: str) -> None:
    path = directory / CONFIG_FILE
    try:
        stored = load_run_config(directory)
    except ConfigError:
        if find_original(path, config) is not None:
            return  # `hold_run_dir` writes it again
        raise
    check_resumable(path)
    differences = diff_configs(stored, config)
    if not differences or is_extension(stored, config):
        return
    if may_extend(stored, config):
        raise ConfigError(
            f"{flag}: holds a run of another schedule ({'; '.join(differences)}); to "
            f"extend that run, use --resume={directory} with these flags; for a new "
            "run, name another directory"
        )
    if stored.optim.earlier == config.optim.earlier:
        # Steps and schedule may change: they are not what refuses.
        differences = diff_configs(stored, config, without=EXTENDED)
    anew = "for a new run, name another directory"
    if stored.model == config.model:
        anew = f"to train its model further as a new run, use --init-from={directory}"
    raise ConfigError(
        f"{flag}: holds a run of another configuration ({'; '.join(differences)}); "
        f"to resume it, use --resume={directory} without these flags; {anew}"
    )


@contextmanager
def hold_run_dir(
    directory: Path,
    config: TrainConfig,
    *,
    identity: Mapping[str, int | str],
    needed: int,
) -> Iterator[None]:
    """Make and lock a run's directory for a `with` block, and describe the run in it.

    Args:
      directory: the directory, from `choose_run_dir`.
      config: the configuration; written unless the directory holds one.
      identity: the identity of the data; written unless the directory holds one.
      needed: bytes of the run's checkpoints, which must be free on the disk or in use
        by its checkpoints already.

    Raises:
      ConfigError: if another process holds the directory, or the disk has too little
        room or cannot be written. A new directory is then removed again.
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
                _name_unvouched(directory)
                _write_config(directory, config)
                write_identity(directory, identity)
            except (OSError, ConfigError):
                if fresh:
                    shutil.rmtree(directory, ignore_errors=True)
                raise
        yield


def _name_unvouched(directory: Path) -> None:
    """Print, in one line, which files of an earlier version's run have no hash."""
    if (directory / CONFIG_FILE).exists() and (names := list_unvouched(directory)):
        print(
            f"{directory}: an earlier lostjax made this run; no hash vouches for "
            f"{', '.join(names)}; python -m lostjax.verify {directory} --adopt adds "
            "them",
            file=sys.stderr,
        )


def _write_config(directory: Path, config: TrainConfig) -> None:
    """Write the configuration, unless the directory holds a whole one."""
    path = directory / CONFIG_FILE
    if not path.exists():
        save_config(path, config)
        if directory.absolute().parent == RUNS.absolute():
            _date_last(directory)
        return
    try:
        stored = load_run_config(directory)
        if diff_configs(stored, config):
            write_extension(directory, config)
    except ConfigError:
        original = find_original(path, config)
        if original is None:
            raise  # damaged since `choose_run_dir`
        date = path.stat().st_mtime_ns
        aside = keep_aside(path)
        save_config(path, original)
        os.utime(path, ns=(date, date))  # `latest` goes by the dates
        print(f"{path}: was damaged: kept as {aside}, written again", file=sys.stderr)


@contextmanager
def refusing_disk_errors(directory: Path) -> Iterator[None]:
    """Raise an `OSError` of the `with` block as a `ConfigError`."""
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
            f"but the checkpoints need {format_bytes(needed - there)}; free some "
            f"space, or keep fewer checkpoints (--keep={config.keep})"
        )


def _is_leftover(path: Path) -> bool:
    """Return whether a file may be left by a run that was killed while starting."""
    return path.name == LOCK or is_temporary(path) or path.name.startswith(".making-")


def _remove_leftovers(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name.startswith(".making-"):
            shutil.rmtree(path, ignore_errors=True)
        elif is_temporary(path):
            path.unlink(missing_ok=True)
