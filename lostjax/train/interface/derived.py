"""A new run directory with changed parameters of a run, sealed as every run is.

    config.json, data.json, tokenizer    those of the run
    *.jsonl                              its lines up to the checkpoint
    checkpoints/STEP                     its state, with the changed parameters

Past parameters and averages are changed too, because a run is evaluated with them. The
report, the events and the evaluation of the checkpoint itself are not copied: they
describe the model before.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from optax.contrib import ScheduleFreeState

from lostjax.data import save_tokenizer
from lostjax.disk.chain import chain_lines, read_chain
from lostjax.disk.files import replace_file
from lostjax.disk.seal import SealError, read_sealed
from lostjax.errors import ConfigError
from lostjax.optim import PastParamsState
from lostjax.steps.state import TrainState
from lostjax.train.build.job import prepare_text
from lostjax.train.build.run import build_run
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import CONFIG_FILE, check_resumable
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.interface.finished import Run
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.keep.commands import record_command
from lostjax.train.keep.directory import (
    choose_run_dir,
    hold_run_dir,
    refusing_disk_errors,
)
from lostjax.train.keep.layout import (
    CHECKPOINTS,
    COMMANDS_FILE,
    DATA_FILE,
    LINES_FILES,
)
from lostjax.train.log.json_lines import EVALUATIONS_FILE
from lostjax.typing import PyTree

_HOLDERS = {ScheduleFreeState: "z", PastParamsState: "past"}
"""States of an optimiser that hold parameters, and the field that does."""


def check_place(run: Run, out: str) -> TrainConfig:
    """Check that a changed copy of a run can be written, before anything is computed.

    Args:
      run: the run.
      out: the new directory.

    Returns:
      The run's configuration, in that directory.

    Raises:
      ConfigError: if the directory holds something or cannot be written, or the state
        of the run cannot be read.
    """
    config = dataclasses.replace(run.config, run_dir=out)
    check_resumable(run.directory / CONFIG_FILE)
    directory = choose_run_dir(config, flag="--out")
    if (directory / CONFIG_FILE).exists():
        raise ConfigError(f"--out={out}: holds a run; name a new directory")
    _read_identity(run.directory)
    return config


def write_derived(
    run: Run,
    change: Callable[[PyTree], PyTree],
    *,
    config: TrainConfig,
    command: str,
) -> None:
    """Write a run with the parameters of another one, changed.

    Args:
      run: the other one.
      change: from parameters to changed ones, of the same structure and types.
      config: from `check_place`.
      command: the command line, which is recorded.

    Raises:
      ConfigError: if a file cannot be read or written.
      DataError: if the text of the run is gone; its state depends on the rows.
    """
    assert config.run_dir is not None
    directory = Path(config.run_dir).expanduser()
    data = prepare_text(run.config, directory=run.directory)
    parts = build_run(
        run.config,
        mesh=make_mesh("data:1"),
        vocab_size=run.tokenizer.vocab_size,
        rows=data.train,
    )
    with open_checkpoints(run.directory / CHECKPOINTS) as checkpoints:
        state = checkpoints.restore(parts.abstract, step=run.step, mesh=parts.mesh)
    with hold_run_dir(
        directory,
        config,
        identity=_read_identity(run.directory),
        needed=parts.checkpoint_bytes,
    ):
        with refusing_disk_errors(directory):
            save_tokenizer(run.tokenizer, directory)
            _copy_lines(run.directory, directory, step=run.step)
            record_command(directory, command, step=run.step)
        place = directory / CHECKPOINTS
        with (
            refusing_disk_errors(directory),
            open_checkpoints(place, keep=config.keep) as checkpoints,
        ):
            checkpoints.save(change_params(state, change), step=run.step)
            checkpoints.wait()
            if not checkpoints.holds(run.step):  # the reason was printed
                raise ConfigError(f"--out={directory}: the checkpoint is not written")


def change_params(state: TrainState, change: Callable[[PyTree], PyTree]) -> TrainState:
    """Change the parameters of a state, in all that it is evaluated with."""

    def holds(part: Any) -> bool:
        return isinstance(part, tuple(_HOLDERS))

    def apply(part: Any) -> Any:
        if not holds(part):
            return part
        name = _HOLDERS[type(part)]
        return part._replace(**{name: change(getattr(part, name))})

    return state._replace(
        params=change(state.params),
        opt_state=jax.tree.map(apply, state.opt_state, is_leaf=holds),
    )


def _read_identity(directory: Path) -> dict[str, int | str]:
    path = directory / DATA_FILE
    try:
        values = read_sealed(path).values
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: is missing; python -m lostjax.verify {directory} --adopt adds it"
        ) from None
    except (OSError, SealError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is damaged")
    return values


def _copy_lines(source: Path, target: Path, *, step: int) -> None:
    """Copy the lines of a run's logs up to a step, and the commands that it had."""
    for name in LINES_FILES:
        if not (source / name).exists():
            continue
        lines = read_chain((source / name).read_bytes())
        # The evaluation of the checkpoint was that of the model before.
        end = step - 1 if name == EVALUATIONS_FILE else step
        whole = [line.values for line in lines if line.values is not None]
        kept = [values for values in whole if values["step"] <= end]
        replace_file(target / name, chain_lines(kept))
    if (source / COMMANDS_FILE).exists():
        replace_file(target / COMMANDS_FILE, (source / COMMANDS_FILE).read_bytes())
