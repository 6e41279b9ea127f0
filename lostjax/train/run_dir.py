"""The directory of a run: chosen, checked, and made only when all else is known good.

RUN/config.json      what the run is           RUN/checkpoints/STEP/   its states
RUN/tokenizer.json   (or .model) its tokens    RUN/report.html         what came out
RUN/metrics.jsonl    a line a step             RUN/tensorboard/, profile/
RUN/stability.jsonl  a line a reading, where asked for
"""

import datetime
import os
import shutil
from pathlib import Path

from lostjax.train.config import ConfigError, TrainConfig, diff_configs
from lostjax.train.config_file import load_config, save_config
from lostjax.train.quantities import format_bytes

RUNS = Path("runs")
"""Where runs go when no directory is given, under the working directory."""


def find_run(name: str, *, runs: Path = RUNS) -> Path:
    """Find an existing run by its directory, or the `latest` one.

    Raises:
      ConfigError: where there is no such run.
    """
    if name == "latest":
        made = sorted(runs.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        if not made:
            raise ConfigError(f"latest: there is no run in {runs.absolute()}")
        return made[-1].parent
    try:
        found = (Path(name) / "config.json").is_file()
    except PermissionError:
        raise ConfigError(f"{name}: no permission to read it") from None
    if not found:
        raise ConfigError(f"{name}: no run is there (no config.json)")
    return Path(name)


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
    elif directory.exists() and any(directory.iterdir()):
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


def make_run_dir(directory: Path, config: TrainConfig, *, needed: int) -> None:
    """Make the directory and write the configuration.

    Args:
      directory: as `choose_run_dir` gave it.
      config: is written unless one is there.
      needed: bytes that the run will certainly write: its checkpoints.

    Raises:
      ConfigError: where the disk has no room for them or cannot be written. Nothing
        is left behind then.
    """
    fresh = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise ConfigError(
                f"--run-dir={directory}: {format_bytes(free)} are free on its disk, "
                f"but the checkpoints need {format_bytes(needed)}; make room, or keep "
                f"fewer (--keep={config.keep})"
            )
        if not (directory / "config.json").exists():
            save_config(directory / "config.json", config)
    except (OSError, ConfigError) as error:
        if fresh and directory.exists():
            shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"--run-dir={directory}: cannot be written: {error.strerror or error}"
        ) from None
