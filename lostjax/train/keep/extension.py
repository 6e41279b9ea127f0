"""Extend a run: more steps, or another schedule from its newest checkpoint on.

The configuration holds what was planned before (`config.stretches`), so that plain
resuming is enough from then on. Nothing is written before the directory is held.
"""

import os
from pathlib import Path

from lostjax.errors import ConfigError
from lostjax.train.config.fields import diff_configs
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import CONFIG_FILE, load_run_config, save_config
from lostjax.train.config.stretches import (
    adopt_settled,
    extend_config,
    list_stretches,
    may_extend,
)
from lostjax.train.keep.layout import CHECKPOINTS, REPORT
from lostjax.train.keep.step_directories import list_steps


def holds_run(directory: Path) -> bool:
    """Return whether a directory holds a run's configuration that can be reached."""
    try:
        return (directory / CONFIG_FILE).exists()
    except OSError:  # no permission: `choose_run_dir` says so
        return False


def extend_run(directory: Path, config: TrainConfig) -> TrainConfig:
    """Return the configuration of a run that is extended from its newest checkpoint.

    Args:
      directory: the run's directory.
      config: the run's configuration, or one that differs in its steps and schedule.

    Returns:
      The run's own configuration with what may change, if nothing that decides its
      numbers differs; else that of the extended run, which `hold_run_dir` writes.

    Raises:
      ConfigError: if the run has no checkpoint yet, or is past the steps.
    """
    stored = load_run_config(directory)
    if not may_extend(stored, config):
        return config
    steps = list_steps(directory / CHECKPOINTS)
    if not steps:
        raise ConfigError(
            f"{directory}: has no checkpoint yet that could be extended; resume it "
            "without other steps or schedule, or start a new run"
        )
    return extend_config(stored, config, step=max(steps))


def adopt_stored(directory: Path, config: TrainConfig) -> TrainConfig:
    """Take over what a run settled when it was begun or extended, if there is one.

    A script that repeats its command line so resumes the run that it began.
    """
    if not holds_run(directory):
        return config
    try:
        stored = load_run_config(directory)
    except ConfigError:
        return config  # `choose_run_dir` refuses or mends it
    adopted = adopt_settled(stored, config)
    return config if diff_configs(stored, adopted) else adopted


def write_extension(directory: Path, config: TrainConfig) -> None:
    """Write the configuration of an extended run, and keep its earlier report.

    Args:
      directory: the run's directory, which this process holds.
      config: from `extend_run`.

    Raises:
      ConfigError: if another process trained the run since `extend_run`.
      OSError: if it cannot be written.
    """
    step = list_stretches(config.optim, steps=config.steps)[-2].until
    newest = max(list_steps(directory / CHECKPOINTS), default=0)
    if newest > step:
        raise ConfigError(
            f"{directory}: another process trained this run to step {newest} since; "
            "start again"
        )
    report = directory / REPORT
    if report.exists():  # a run with a report is finished
        kept = report.with_name(f"{report.stem}-{step}{report.suffix}")
        os.replace(report, kept)
        print(f"{kept}: the report up to step {step}")
    save_config(directory / CONFIG_FILE, config)
