"""The first state of a run: from its seed, or with the parameters of another run.

    params, channels    of a checkpoint of `init_from`, as that run is evaluated
    optimiser, memory   made for these parameters, as at the start of every run

The shape of the model and the tokenizer are those of the other run; text, schedule,
optimiser and objective are free.
"""

import dataclasses
from pathlib import Path

import jax

from lostjax.data import Tokenizer, load_saved_tokenizer
from lostjax.data.tokenizers.tokenizer import find_saved_tokenizer
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.steps.state import TrainState
from lostjax.train.build.restored import choose_step, read_variables
from lostjax.train.build.run import Run, build_run
from lostjax.train.build.state import init_state
from lostjax.train.config.fields import flag_name
from lostjax.train.config.schema import ModelConfig, TrainConfig
from lostjax.train.config.stored import load_run_config
from lostjax.typing import Variables

FREE_OF_MODEL = frozenset(
    {
        *("attention", "product", "remat", "dtype"),
        *("channels", "factors", "correct_variance", "base_width"),
    }
)
"""Fields of the model that change no function of its parameters: how it computes, how
it was initialised, and its learning rates."""


def start_state(run: Run) -> TrainState:
    """Make the first state of a run, on its mesh.

    Raises:
      ConfigError: if the run starts from another one whose checkpoint cannot be read.
    """
    return init_state(
        run.model,
        run.tx,
        mesh=run.mesh,
        key=jax.random.key(run.config.seed),
        init_memory=run.trajectory.init_memory,
        variables=_read_initial(run) if run.config.init_from else None,
    )


def settle_origin(config: TrainConfig) -> TrainConfig:
    """Check the run that a new one starts from, and choose its checkpoint.

    Args:
      config: with `init_from`.

    Returns:
      The configuration with the step of the checkpoint, so that a later start begins
      with the same parameters even if the other run is trained further.

    Raises:
      ConfigError: if there is no such run or checkpoint, or its model has another
        shape.
    """
    directory = _origin(config)
    there = load_run_config(directory).model
    for field in dataclasses.fields(ModelConfig):
        before, now = getattr(there, field.name), getattr(config.model, field.name)
        if field.name not in FREE_OF_MODEL and before != now:
            raise ConfigError(
                f"{flag_name(f'model.{field.name}')}={now}: it is {before} in "
                f"{directory}; a run starts from one whose model has the same shape"
            )
    try:
        step = choose_step(directory, step=config.init_step)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--step=", "--init-step=")) from None
    return dataclasses.replace(config, init_step=step)


def check_origin(config: TrainConfig, tokenizer: Tokenizer) -> None:
    """Refuse another tokenizer than that of the run that a new one starts from.

    Raises:
      ConfigError: if it differs.
      DataError: if the other run's cannot be read.
    """
    directory = _origin(config)
    theirs = load_saved_tokenizer(directory)
    if theirs.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"--data.tokenizer={config.data.tokenizer}: is not the tokenizer of "
            f"{directory}, whose parameters the run starts from ({tokenizer.vocab_size}"
            f" tokens here, {theirs.vocab_size} there); the right one is "
            f"--data.tokenizer={find_saved_tokenizer(directory)}"
        )


def _origin(config: TrainConfig) -> Path:
    assert config.init_from is not None
    return read_path(config.init_from, flag="--init-from")


def _read_initial(run: Run) -> Variables:
    config, directory = run.config, _origin(run.config)
    assert config.init_step is not None
    there = load_run_config(directory)
    # Its parts on this mesh, with this batch, which the mesh divides.
    sized = dataclasses.replace(
        there, batch_size=config.batch_size, accumulate=config.accumulate
    )
    parts = build_run(sized, mesh=run.mesh, vocab_size=run.model.vocab_size)
    return read_variables(
        directory, parts, step=config.init_step, average=False, dtype="float32"
    )
