"""Search for a mesh, a batch size and a remat policy: estimate many, compile a few.

Compiling takes a minute, an estimate at most a second. An estimate uses the exact
shapes of the state, of what autodiff keeps of a micro-batch, and of the logits that the
head computes at a time. Candidates whose state alone does not fit are dropped. The
others are compiled until there are enough plans. Those that are likely to fit come
first, in the order of their estimated seconds per token; then the rest, the smallest
first, because compilers differ in what they keep: a TPU's may never store the logits.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

from lostjax.errors import ConfigError
from lostjax.nn import activation_bytes, count_flops
from lostjax.plan.estimate import make_plan
from lostjax.plan.layout import describe_run, lay_mesh
from lostjax.plan.needs import Plan
from lostjax.plan.targets import Target
from lostjax.steps.head import count_parts
from lostjax.train.build.model import build_model
from lostjax.train.build.programs import abstract_batch
from lostjax.train.build.run import Run, check_batch
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import ModelConfig, RematName, TrainConfig
from lostjax.train.devices.chips import Chip
from lostjax.train.devices.mesh import AXES, count_batch_shards
from lostjax.train.devices.sharding import place_shapes, shard_bytes
from lostjax.trees import count_bytes
from lostjax.view.numbers import format_bytes

T = TypeVar("T")

REMAT: tuple[RematName, ...] = ("none", "products", "bottleneck", "full")
EXTRA_FORWARD = {"none": 0.0, "products": 0.1, "bottleneck": 0.6, "full": 1.0}
"""Approximate share of a forward pass that each policy recomputes."""
TENSOR = (1, 2, 4, 8)
"""Sizes of the tensor axis that are tried."""
BATCHES = (0.25, 0.5, 1, 2, 4)
"""Batch sizes that are tried, relative to the configuration's."""
SLACK = 1.5
"""Candidates rarely fit if their estimate exceeds this multiple of the memory."""


class Candidate(NamedTuple):
    """A configuration, and estimates of its needs."""

    config: TrainConfig
    held: float
    """Bytes of state and batch on a device, which no compiler can avoid."""
    bytes: float
    """Bytes on a device, including gradients, activations and logits."""
    seconds: float
    """Seconds per token, on all devices together."""


def search_plans(
    config: TrainConfig, target: Target, *, count: int, say: Callable[[str], object]
) -> list[Plan]:
    """Compile the most promising candidates.

    Args:
      config: the configuration; its mesh, batch size and remat policy are replaced.
      target: hardware whose figures are known.
      count: number of candidates to compile, at least 1.
      say: called with a line of text for each plan, and for each different reason why
        candidates are dropped.

    Returns:
      The plans: those that fit first, and in each group the least time per token first.

    Raises:
      ConfigError: if there are no figures of the hardware, or no candidate can be
        compiled for it.
      DataError: if the text is wrong.
    """
    chip = target.chip
    if chip is None:
        raise ConfigError(
            f"--search: there are no published figures of {target.kind}; name a "
            "--topology"
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
    """Estimate the needs of a candidate from its shapes, without compiling it.

    Args:
      config: a candidate.
      target: hardware whose figures are known.

    Returns:
      The candidate, with its estimates.

    Raises:
      ConfigError, DataError: see `make_plan`.
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
    # Logits and their gradient in float32, of the positions that the head computes at a
    # time.
    logits = 2 * 4 * model.vocab_size * (rows // shards) * length // parts
    kept = (rows // shards) * _row_bytes(config.model, model.vocab_size, length)
    state = place_shapes(run.abstract, mesh)
    batch = count_bytes(abstract_batch(config, None)) // shards
    held = shard_bytes(state) + batch
    if run.reference is not None:
        held += shard_bytes(place_shapes(run.reference.abstract, mesh))
    gradients = shard_bytes(state.params)
    return Candidate(
        config,
        held,
        held + gradients + (kept + logits) / tensor,
        _count_seconds(config, run, chip),
    )


def _count_seconds(config: TrainConfig, run: Run, chip: Chip) -> float:
    """Estimate the seconds per token: the longer of computation and communication."""
    data, fsdp, tensor = (run.mesh.shape[axis] for axis in AXES)
    tokens = config.batch_size * config.data.seq_len
    again = EXTRA_FORWARD[config.model.remat]
    forward = count_flops(run.model, length=config.data.seq_len).forward
    flops = run.flops_per_token + again * forward
    compute = flops / (chip.flops * run.mesh.size)
    n_parameters = count_bytes(run.abstract.params) / 4
    # Each micro-batch gathers the parameters in two bytes each, forward and backward.
    gathers = config.accumulate * 3 * 2 * n_parameters / tensor * (fsdp > 1)
    reduces = 2 * 4 * n_parameters / (fsdp * tensor) * (data > 1)
    width = config.model.n_layers * config.model.d_model
    stream = 8 * width * tokens / (data * fsdp) * (tensor > 1)
    network = (gathers + reduces + stream) / chip.network / tokens
    return float(max(compute, network))


def _alike(config: TrainConfig) -> TrainConfig:
    """Map all candidates with the same state to one configuration.

    `_describe` caches by it. The batch size is kept if there is a trajectory term,
    because the past that it keeps depends on the rows of a step.
    """
    rows = 1 if config.objective.trajectory.name == "none" else config.batch_size
    config = dataclasses.replace(config, mesh="data:1", batch_size=rows, accumulate=1)
    return replace_in(config, "model", remat="none")


@lru_cache  # tracing takes most of an estimate's time, and candidates share few states
def _describe(config: TrainConfig, target: Target) -> Run:
    return describe_run(config, lay_mesh(config, target))


@lru_cache
def _row_bytes(config: ModelConfig, vocab_size: int, length: int) -> int:
    """Count the bytes that autodiff keeps of one row."""
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
    """Return the result of `make`; None if it raises `ConfigError`.

    Each different error message is printed once.
    """
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
    """Format the reason why there is no plan."""
    if not candidates:
        return (
            f"--search: no mesh of {target.name}, batch size and remat policy is "
            "possible for this configuration; see the reasons above"
        )
    if small:
        return (
            "--search: no candidate that may fit could be compiled; see the reasons "
            "above"
        )
    least = min(candidates, key=lambda each: each.held)
    return (
        f"--search: nothing fits {target.name}: the smallest of {len(candidates)} "
        f"candidates, {least.config.mesh}, has {format_bytes(least.held)} of state and "
        "batch per device"
    )


def _promise(candidate: Candidate, chip: Chip) -> tuple[bool, float]:
    """Return a sort key: candidates likely to fit by time, then the rest by size."""
    is_large = candidate.bytes > SLACK * chip.memory
    return is_large, candidate.bytes if is_large else candidate.seconds


def _order(plan: Plan) -> tuple[bool, float]:
    time = math.inf if plan.times is None else plan.times.step / plan.tokens
    return not plan.memory.fits, time
