"""Generate text from a checkpoint: `python -m lostjax.generate RUN --prompt "..."`.

Configuration and tokenizer are those of the run. The checkpoint may have been saved on
any mesh, and is restored onto one device.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from lostjax.data import DataError, load_saved_tokenizer
from lostjax.errors import ConfigError
from lostjax.nn import sample_tokens
from lostjax.nn.decoding import check_sampling
from lostjax.steps.state import model_variables
from lostjax.train.build.optimizer import evaluation_variables, trains_elsewhere
from lostjax.train.build.run import Run, build_run
from lostjax.train.config.checks import check_seed
from lostjax.train.config.fields import flag_name
from lostjax.train.config.stored import load_run_config
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.platform import settle_platform
from lostjax.train.flags import Positional, parse_flags
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.directory import CHECKPOINTS, find_run
from lostjax.train.keep.recovery import explain_bare_steps
from lostjax.train.keep.step_directories import list_bare_steps
from lostjax.train.log.output import run_printing_program
from lostjax.typing import Variables

PROGRAM = "python -m lostjax.generate"

MOST_TOKENS = 2**17
"""Attention reads a cache of all tokens at every step: time grows with their square."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Continue a prompt with a trained model."""

    run: Positional[str]
    """Directory of the run, or latest."""
    prompt: str = "Fellow citizens,"
    """Text to continue."""
    tokens: int = 100
    """Number of tokens to generate."""
    temperature: float = 0.8
    """Divides the logits, 0 or more; 0 takes the most likely token."""
    top_k: int | None = None
    """Sample among this number of most likely tokens."""
    top_p: float | None = None
    """Sample among the most likely tokens that together have this probability, in
    (0, 1]."""
    seed: int = 0
    """Seed of the sampling."""
    step: int | None = None
    """Step of the checkpoint; default the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to which the parameters are rounded in memory."""
    average: bool = False
    """Use the moving average of the parameters, which runs with
    --objective.trajectory=mesa keep."""


def generate(flags: Flags) -> str:
    """Continue a prompt with a run's model.

    Returns:
      The continuation, without the prompt, up to the end of the document if the model
      generates one.

    Raises:
      ConfigError: if there is no such run or checkpoint, `average` is set but the run
        keeps no average, or a value is wrong.
      DataError: if the run's tokenizer cannot be read.
    """
    check_seed(flags.seed)
    directory = find_run(flags.run)
    config = load_run_config(directory)
    if flags.average and not config.objective.trajectory.keeps_average:
        raise ConfigError(
            f"--average: {directory} keeps no moving average of its parameters; only "
            "runs with --objective.trajectory=mesa do"
        )
    tokenizer = load_saved_tokenizer(directory)
    _check_sampling(flags, vocab_size=tokenizer.vocab_size)
    settle_platform()
    run = build_run(config, mesh=make_mesh("data:1"), vocab_size=tokenizer.vocab_size)
    with open_checkpoints(directory / CHECKPOINTS) as checkpoints:
        step = _choose_step(checkpoints, flags, directory=directory)
        variables = _read_variables(checkpoints, run, flags, step=step)
    prompt = [tokenizer.eos_id, *tokenizer.encode_batch([flags.prompt])[0]]
    tokens_BT = sample_tokens(
        run.model,
        variables,
        prompt_BT=jnp.asarray([prompt], jnp.int32),
        n_tokens=flags.tokens,
        key=jax.random.key(flags.seed),
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
    )
    continuation = [int(token) for token in tokens_BT[0, len(prompt) :]]
    if tokenizer.eos_id in continuation:
        continuation = continuation[: continuation.index(tokenizer.eos_id)]
    return tokenizer.decode(continuation)


def _check_sampling(flags: Flags, *, vocab_size: int) -> None:
    """Refuse values of flags before a checkpoint is read."""
    if flags.tokens > MOST_TOKENS:
        raise ConfigError(f"--tokens={flags.tokens}: must be 1 to {MOST_TOKENS}")
    try:
        check_sampling(
            vocab_size,
            n_tokens=flags.tokens,
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
        )
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        flag = "--tokens" if name == "n_tokens" else flag_name(name)
        raise ConfigError(f"{flag}={rest}") from None


def _choose_step(checkpoints: Checkpoints, flags: Flags, *, directory: Path) -> int:
    steps = checkpoints.all_steps()
    if not steps and list_bare_steps(directory / CHECKPOINTS):
        raise ConfigError(explain_bare_steps(directory / CHECKPOINTS))
    if not steps:
        raise ConfigError(f"{directory}: has no checkpoint yet")
    step = flags.step if flags.step is not None else max(steps)
    if step not in steps:
        there = ", ".join(map(str, steps))
        raise ConfigError(
            f"--step={step}: {directory} has checkpoints of steps {there}"
        )
    return step


def _read_variables(
    checkpoints: Checkpoints, run: Run, flags: Flags, *, step: int
) -> Variables:
    """Restore the variables to generate with; the optimiser's state only if needed."""
    if not flags.average and not trains_elsewhere(run.config.optim):
        abstract = model_variables(run.abstract)
        return checkpoints.restore_model(
            abstract, step=step, mesh=run.mesh, dtype=flags.dtype
        )
    state = checkpoints.restore(run.abstract, step=step, mesh=run.mesh)
    average = run.trajectory.average if flags.average else evaluation_variables
    assert average is not None
    found = average(state)
    rounded = jax.tree.map(lambda x: x.astype(flags.dtype), found["params"])
    return {**found, "params": rounded}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        flags = parse_flags(Flags, words, program=PROGRAM)
        continuation = generate(flags)
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    print(flags.prompt + continuation)
    return 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
