"""The reference of a run: the model of another one, which weighs its tokens.

The reference lies on the run's mesh beside the state, and is no part of checkpoints.
What it was is part of the configuration: its step, and the hash of that checkpoint's
manifest, which holds the hash of every file. A run is only resumed with the same one.

The reference is read once, before the first step. If its run is deleted or trained
further after that, nothing changes until this run is resumed.
"""

import dataclasses
import sys
from functools import cache
from pathlib import Path

from jax.sharding import Mesh

from lostjax.data import Tokenizer, load_saved_tokenizer
from lostjax.data.tokenizers.tokenizer import find_saved_tokenizer
from lostjax.disk.manifest import MANIFEST
from lostjax.disk.seal import SealError, digest, read_regular
from lostjax.errors import ConfigError
from lostjax.steps.state import model_variables
from lostjax.train.build.model import place_model
from lostjax.train.build.restored import choose_step, read_variables
from lostjax.train.build.run import Reference, build_run
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_run_config
from lostjax.train.devices.agreement import check_same
from lostjax.train.devices.hosts import on_first_host
from lostjax.train.keep.directory import find_run
from lostjax.train.keep.layout import CHECKPOINTS, REPORT
from lostjax.train.keep.recovery import summarise_damage
from lostjax.train.keep.step_directories import find_step_damage, step_dir
from lostjax.typing import Variables

FLAG = "--objective.token-weights.reference"

LARGEST_MANIFEST = 2**30
"""Bytes: it has 35 for each 16 MiB of the checkpoint."""


def settle_reference(config: TrainConfig) -> TrainConfig:
    """Choose the reference's checkpoint, or check that it is the one of before.

    Args:
      config: names a reference; of a run that was begun, with its step and digest.

    Returns:
      The configuration with step and digest.

    Raises:
      ConfigError: if there is no such run or checkpoint, or it is damaged, or another
        one than the run began with.
    """
    weights = config.objective.token_weights
    try:
        directory = _find(config)
        step = choose_step(directory, step=weights.step)
        path = step_dir(directory / CHECKPOINTS, step)
        on_first_host(lambda: _refuse_damage(path))
        there = digest(read_regular(path / MANIFEST, largest=LARGEST_MANIFEST))
    except ConfigError as error:
        text = str(error).replace("--step=", "--objective.token-weights.step=")
        raise ConfigError(_explain(config, text)) from None
    except (OSError, SealError) as error:  # it trains on, and has just deleted it
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(_explain(config, f"{path}/{MANIFEST}: {reason}")) from None
    check_same("reference", {"step": step, "digest": there})
    if weights.digest and weights.digest != there:
        raise ConfigError(_explain(config, f"{path}: is another checkpoint"))
    if not weights.digest and not (directory / REPORT).exists():
        on_first_host(lambda: _warn(directory, step))
    return replace_in(config, "objective.token_weights", step=step, digest=there)


def check_reference(config: TrainConfig, tokenizer: Tokenizer) -> None:
    """Refuse a reference whose tokens are others.

    Raises:
      ConfigError: if its tokenizer is another one.
      DataError: if its tokenizer cannot be read.
    """
    directory = _find(config)
    theirs = load_saved_tokenizer(directory)
    if theirs.fingerprint != tokenizer.fingerprint:
        same = find_saved_tokenizer(directory)
        raise ConfigError(
            f"{FLAG}={directory}: its tokenizer is not that of this run "
            f"({theirs.vocab_size} tokens there, {tokenizer.vocab_size} here); "
            f"--data.tokenizer={same} would train with the same"
        )


def build_reference(config: TrainConfig, *, mesh: Mesh, vocab_size: int) -> Reference:
    """Describe the reference on a mesh, whose devices may be absent.

    Args:
      config: names a reference.
      mesh: the devices of the run.
      vocab_size: size of the run's vocabulary.

    Returns:
      The reference; its variables are not read yet.

    Raises:
      ConfigError: if there is no such run.
    """
    directory = _find(config)
    there = load_run_config(directory)
    # Its parts on this mesh, with this batch, which the mesh divides.
    there = dataclasses.replace(
        there, batch_size=config.batch_size, accumulate=config.accumulate
    )
    parts = build_run(there, mesh=mesh, vocab_size=vocab_size)

    @cache
    def load() -> Variables:
        step = config.objective.token_weights.step
        assert step is not None
        return read_variables(
            directory, parts, step=step, average=False, dtype="float32"
        )

    model = place_model(
        parts.model, config=there.model, mesh=mesh, length=config.data.seq_len
    )
    return Reference(model, model_variables(parts.abstract), load)


def _find(config: TrainConfig) -> Path:
    reference = config.objective.token_weights.reference
    assert reference is not None
    return find_run(reference)


def _refuse_damage(path: Path) -> None:
    damage = find_step_damage(path, items=("model",))
    if damage:
        raise ConfigError(f"{path}: is damaged: {summarise_damage(damage)}")


def _explain(config: TrainConfig, what: str) -> str:
    weights = config.objective.token_weights
    if not weights.digest:
        return f"{FLAG}={weights.reference}: {what}"
    return (
        f"{FLAG}={weights.reference}: {what}; the run began with its step "
        f"{weights.step}, and resumes with the same alone: restore it, or pass {FLAG}="
        "the place that it was moved to"
    )


def _warn(directory: Path, step: int) -> None:
    print(
        f"{FLAG}={directory}: is not finished; this run keeps to its step {step}, and "
        "cannot be resumed once that checkpoint is deleted",
        file=sys.stderr,
    )
