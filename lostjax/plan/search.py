"""Which mesh, batch size and remat policy? Estimate many, compile the promising ones.

Compiling takes a minute, an estimate a second at most: of every candidate the state's
shapes, what autodiff keeps of a micro-batch, and the logits of the positions that the
head scores at a time are what the run itself would have. Those whose state alone is too
large are left out. The rest are compiled until enough were: first those that are likely
to fit, by their estimated seconds a token, then the others, the smallest first, for
compilers differ in what they keep (a TPU's may never write the logits).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

from lostjax.errors import ConfigError
from lostjax.nn import activation_bytes, count_flops
from lostjax.plan.estimate import (
    Plan,
    describe_run,
    lay_mesh,
    make_plan,
    shard_bytes,
)
from lostjax.plan.targets import Target
from lostjax.steps.head import count_parts
from lostjax.train.build.model import build_model
from lostjax.train.build.programs import abstract_batch
from lostjax.train.build.run import Run, check_batch
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import ModelConfig, RematName, TrainConfig
from lostjax.train.devices.chips import Chip
from lostjax.train.devices.mesh import AXES, count_batch_shards, place_shapes
from lostjax.trees import count_bytes
from lostjax.view.numbers import format_bytes

T = TypeVar("T")

REMAT: tuple[RematName, ...] = ("none", "products", "bottleneck", "full")
EXTRA_FORWARD = {"none": 0.0, "products": 0.1, "bottleneck": 0.6, "full": 1.0}
"""Share of a forward pass that each policy computes again, roughly."""
TENSOR = (1, 2, 4, 8)
BATCHES = (0.25, 0.5, 1, 2, 4)
"""Batch sizes that are tried, relative to the configuration's."""
SLACK = 1.5
"""Candidates come last whose estimated memory is this many times too large."""


class Candidate(NamedTuple):
    """A configuration, and what it is likely to need."""

    config: TrainConfig
    held: float
    """Bytes of state and batch on a device: whatever the compiler does, they are there.
    """
    bytes: float
    """On a device, with gradients, activations and logits."""
    seconds: float
    """For a token, on all devices together."""


def search_plans(
    config: TrainConfig, target: Target, *, count: int, say: Callable[[str], object]
) -> list[Plan]:
    """Compile the most promising candidates.

    Args:
      config: what would be trained; its mesh, batch size and remat policy are replaced.
      target: hardware whose figures are known.
      count: how many to compile, at least 1.
      say: takes a line for each, and one for each reason why some cannot be.

    Returns:
      The plans, those that fit first, and among them the least time a token first.

    Raises:
      ConfigError: where nothing is known of the hardware, or nothing can fit.
      DataError: as the run itself would.
    """
    chip = target.chip
    if chip is None:
        raise ConfigError(
            f"--search: no published figures of {target.kind}; name a --topology"
        )
    check_config(config)
    attempt = partial(_attempt, say=say, said=set())
    made = [
        attempt(partial(estimate, each, target))
        for each in _vary(config, len(target.devices))
    ]
    candidates = [each for each in made if each is not None]
    small = [each for each in candidates if each.held <= chip.memory]
    small.sort(key=partial(_promise, chip=chip))
    plans: list[Plan] = []
    for each in small:
        if len(plans) == count:
            break
        found = attempt(partial(make_plan, each.config, target))
        if found is not None:
            plans.append(found)
            fits = "fits" if found.memory.fits else "does not fit"
            say(
                f"{each.config.mesh}  batch {each.config.batch_size}  "
                f"{each.config.model.remat}: {fits}"
            )
    if not plans:
        raise ConfigError(_explain(candidates, small, target))
    return sorted(plans, key=_order)


def estimate(config: TrainConfig, target: Target) -> Candidate:
    """Estimate what a candidate needs from its shapes alone.

    Args:
      config: a candidate.
      target: hardware whose figures are known.

    Raises:
      ConfigError, DataError: as `make_plan` does, before it compiles.
    """
    chip = target.chip
    assert chip is not None
    check_config(config)
    mesh = lay_mesh(config, target)
    check_batch(config, mesh)
    run = dataclasses.replace(_describe(_alike(config), target), mesh=mesh)
    model, length = run.model, config.data.seq_len
    shards, tensor = count_batch_shards(mesh), mesh.shape["tensor"]
    rows = config.batch_size // config.accumulate  # of a micro-batch, on all shards
    parts = count_parts((rows, length, model.d_model), shards=shards)
    # Logits and their gradient, float32, of the positions that are scored at a time.
    logits = 2 * 4 * model.vocab_size * (rows // shards) * length // parts
    kept = (rows // shards) * _row_bytes(config.model, model.vocab_size, length)
    state = place_shapes(run.abstract, mesh)
    batch = count_bytes(abstract_batch(config, None)) // shards
    held = shard_bytes(state) + batch
    gradients = shard_bytes(state.params)
    return Candidate(
        config,
        held,
        held + gradients + (kept + logits) / tensor,
        _count_seconds(config, run, chip),
    )


def _count_seconds(config: TrainConfig, run: Run, chip: Chip) -> float:
    """Count the seconds of a token: those of computing or of the network, if longer."""
    data, fsdp, tensor = (run.mesh.shape[axis] for axis in AXES)
    tokens = config.batch_size * config.data.seq_len
    again = EXTRA_FORWARD[config.model.remat]
    forward = count_flops(run.model, length=config.data.seq_len).forward
    flops = run.flops_per_token + again * forward
    compute = flops / (chip.flops * run.mesh.size)
    n_parameters = count_bytes(run.abstract.params) / 4
    # Each micro-batch gathers the parameters, forward and backward, in two bytes.
    gathers = config.accumulate * 3 * 2 * n_parameters / tensor * (fsdp > 1)
    reduces = 2 * 4 * n_parameters / (fsdp * tensor) * (data > 1)
    width = config.model.n_layers * config.model.d_model
    stream = 8 * width * tokens / (data * fsdp) * (tensor > 1)
    network = (gathers + reduces + stream) / chip.network / tokens
    return float(max(compute, network))


def _alike(config: TrainConfig) -> TrainConfig:
    """Give one configuration for all those of the same state.

    The past that a run may keep of its text depends on the rows of a step.
    """
    rows = 1 if config.objective.trajectory.name == "none" else config.batch_size
    config = dataclasses.replace(config, mesh="data:1", batch_size=rows, accumulate=1)
    return replace_in(config, "model", remat="none")


@lru_cache
def _describe(config: TrainConfig, target: Target) -> Run:
    return describe_run(config, lay_mesh(config, target))


@lru_cache
def _row_bytes(config: ModelConfig, vocab_size: int, length: int) -> int:
    """Count what autodiff keeps of one row."""
    model = build_model(config, vocab_size=vocab_size)
    return activation_bytes(model, batch_size=1, length=length)


def _vary(config: TrainConfig, n_devices: int) -> Iterator[TrainConfig]:
    for tensor, remat, factor in itertools.product(TENSOR, REMAT, BATCHES):
        if n_devices % tensor or config.model.n_heads % tensor:
            continue
        rest = n_devices // tensor
        for fsdp in (size for size in range(1, rest + 1) if rest % size == 0):
            batch = round(config.batch_size * factor)
            if batch % (rest * config.accumulate) or batch < 1:
                continue
            varied = dataclasses.replace(
                config,
                mesh=f"data:{rest // fsdp},fsdp:{fsdp},tensor:{tensor}",
                batch_size=batch,
            )
            yield replace_in(varied, "model", remat=remat)


def _attempt(
    make: Callable[[], T], *, say: Callable[[str], object], said: set[str]
) -> T | None:
    """Make something; where it cannot be, say why, every reason once."""
    try:
        return make()
    except ConfigError as error:
        reason = str(error)
    if reason not in said:
        said.add(reason)
        say(f"left out: {reason}")
    return None


def _explain(
    candidates: list[Candidate], small: list[Candidate], target: Target
) -> str:
    """Say why nothing was planned."""
    if not candidates:
        return (
            f"--search: no mesh of {target.name}, batch size and remat policy can be "
            "for this configuration; see the reasons above"
        )
    if small:
        return "--search: what would fit cannot be planned; see the reasons above"
    least = min(candidates, key=lambda each: each.held)
    return (
        f"--search: nothing fits {target.name}: the smallest of {len(candidates)}, "
        f"{least.config.mesh}, has {format_bytes(least.held)} of state a device"
    )


def _promise(candidate: Candidate, chip: Chip) -> tuple[bool, float]:
    """Sort what is likely to fit by time, and the rest by size behind it."""
    is_large = candidate.bytes > SLACK * chip.memory
    return is_large, candidate.bytes if is_large else candidate.seconds


def _order(plan: Plan) -> tuple[bool, float]:
    time = math.inf if plan.times is None else plan.times.step / plan.tokens
    return not plan.memory.fits, time
