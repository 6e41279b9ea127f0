"""A run with its text and its directory: all that the trainer needs to start."""

import dataclasses
from pathlib import Path

import jax

from lostjax.data import Data, prepare_data
from lostjax.disk.paths import check_path, read_path
from lostjax.errors import ConfigError
from lostjax.train.build.initial import check_origin, settle_origin
from lostjax.train.build.objectives.reference import (
    build_reference,
    check_reference,
    settle_reference,
)
from lostjax.train.build.run import Run, build_run, check_batch
from lostjax.train.config.checks import check_config
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.agreement import check_same, check_same_flags
from lostjax.train.devices.compilation_cache import keep_programs
from lostjax.train.devices.joining import join_hosts
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.provide import provide_devices
from lostjax.train.keep.directory import choose_run_dir
from lostjax.train.keep.extension import adopt_stored, extend_run, holds_run
from lostjax.train.keep.identity import check_same_data
from lostjax.train.keep.layout import CHECKPOINTS, TOKENIZER_FILES
from lostjax.train.keep.step_directories import list_steps


@dataclasses.dataclass(frozen=True)
class Job(Run):
    """A run, its text and its directory."""

    data: Data
    directory: Path
    """The run's directory; it may not exist yet."""


def prepare_job(config: TrainConfig, *, extends: bool = False) -> Job:
    """Check and build everything a run needs. Only caches are written.

    Args:
      config: the run.
      extends: whether a run with other steps or another schedule, if there is one in
        the directory, is extended; it is refused otherwise.

    Raises:
      ConfigError, DataError: naming what is wrong and what would be right.
    """
    check_config(config)
    provide_devices(config)
    join_hosts(config.hosts)
    check_same_flags(config)
    mesh = make_mesh(config.mesh)
    keep_programs()
    check_batch(config, mesh)  # before the text is read
    if jax.process_count() > 1 and config.run_dir is None:
        raise ConfigError("--run-dir: several processes need one, the same for all")
    if config.run_dir is not None:
        config = _settle(config, extends=extends)
    flag = "--resume" if extends else "--run-dir"
    directory = choose_run_dir(config, flag=flag)
    starts_from = config.init_from is not None and not list_steps(
        directory / CHECKPOINTS
    )  # later, the other run may be gone
    if starts_from:
        config = settle_origin(config)
    weighs = config.objective.token_weights.reference is not None
    if weighs:
        config = settle_reference(config)
    data = prepare_text(config, directory=directory)
    if weighs:
        check_reference(config, data.tokenizer)
    if starts_from:
        check_origin(config, data.tokenizer)
    check_same("data", data.identity)
    check_same_data(directory, data.identity)
    size = data.vocab_size
    reference = None
    if weighs:
        reference = build_reference(config, mesh=mesh, vocab_size=size)
    run = build_run(
        config, mesh=mesh, vocab_size=size, rows=data.train, reference=reference
    )
    parts = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    return Job(**parts, data=data, directory=directory)


def _settle(config: TrainConfig, *, extends: bool) -> TrainConfig:
    """Complete the configuration by what the run in its directory had planned."""
    assert config.run_dir is not None
    directory = read_path(config.run_dir, flag="--run-dir")
    config = adopt_stored(directory, config)
    if extends and holds_run(directory):
        config = extend_run(directory, config)
        check_config(config)
    return config


def prepare_text(config: TrainConfig, *, directory: Path | None = None) -> Data:
    """Read, tokenize and pack a configuration's text, or find it in the cache.

    Args:
      config: the run.
      directory: of the run; its copy of the tokenizer is used if the tokenizer is a
        file that is gone.

    Raises:
      ConfigError: if the path of the cache cannot be used.
      DataError: naming what is wrong with the text.
    """
    data = config.data
    if data.cache_dir is not None:
        check_path(Path(data.cache_dir), flag="--data.cache-dir")
    return prepare_data(
        data.source,
        heldout=data.heldout,
        tokenizer=_find_tokenizer(data.tokenizer, directory),
        seq_len=data.seq_len,
        batch_size=config.batch_size,
        seed=config.seed,
        cache_dir=data.cache_dir,
    )


def _find_tokenizer(spec: str, directory: Path | None) -> str:
    if directory is None or spec == "bytes" or spec.startswith("bpe:"):
        return spec
    copies = [directory / name for name in TOKENIZER_FILES]
    there = [str(copy) for copy in copies if copy.is_file()]
    return there[0] if there and not Path(spec).expanduser().is_file() else spec
