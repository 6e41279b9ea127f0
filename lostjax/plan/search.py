"""Which mesh, batch size and remat policy? Estimate many, compile the promising ones.

Compiling takes a minute, an estimate a second: every candidate's memory is estimated
from its shapes, those that cannot fit are left out, and the rest are compiled in the
order of their estimated seconds a token until enough were.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from lostjax.nn import activation_bytes, count_flops, count_parameters
from lostjax.plan.estimate import Plan, make_plan
from lostjax.plan.targets import Target
from lostjax.train.chips import Chip
from lostjax.train.config import ConfigError, ModelConfig, RematName, TrainConfig
from lostjax.train.model import build_model

REMAT: tuple[RematName, ...] = ("none", "products", "bottleneck", "full")
EXTRA_FORWARD = {"none": 0.0, "products": 0.1, "bottleneck": 0.6, "full": 1.0}
"""Share of a forward pass that each policy computes again, roughly."""
TENSOR = (1, 2, 4, 8)
BATCHES = (0.25, 0.5, 1, 2, 4)
"""Batch sizes that are tried, relative to the configuration's."""
SLACK = 1.5
"""Candidates are left out whose estimated memory is this many times too large."""


class Candidate(NamedTuple):
    """A configuration, and what it is likely to need."""

    config: TrainConfig
    bytes: float
    """On a device."""
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
      say: takes a line for each.

    Returns:
      The plans, those that fit first, and among them the least time a token first.

    Raises:
      ConfigError: where nothing is known of the hardware, or nothing can fit.
    """
    chip = target.chip
    if chip is None:
        raise ConfigError(
            f"--search: no published figures of {target.kind}; name a --topology"
        )
    made = (estimate(each, chip) for each in _vary(config, len(target.devices)))
    candidates = [each for each in made if each.bytes <= SLACK * chip.memory]
    if not candidates:
        raise ConfigError(
            f"--search: nothing fits {target.name}: even cut over all of its "
            "devices the state or one row's activations are too large"
        )
    candidates.sort(key=lambda each: each.seconds)
    plans = []
    for each in candidates[:count]:
        found = make_plan(each.config, target)
        plans.append(found)
        fits = "fits" if found.memory.fits else "does not fit"
        say(
            f"{each.config.mesh}  batch {each.config.batch_size}  "
            f"{each.config.model.remat}: {fits}"
        )
    return sorted(plans, key=_order)


def estimate(config: TrainConfig, chip: Chip) -> Candidate:
    """Estimate a candidate from its shapes alone."""
    sizes = dict(part.split(":") for part in config.mesh.split(","))
    data, fsdp, tensor = (
        int(sizes.get(axis, 1)) for axis in ("data", "fsdp", "tensor")
    )
    shards, length, vocab_size = data * fsdp, config.data.seq_len, _vocabulary(config)
    one_row = _measure(
        dataclasses.replace(config.model, channel_groups=1), vocab_size, length
    )
    rows = config.batch_size / shards
    kept = one_row.activations * rows / tensor
    logits = 2 * 4 * rows * length * vocab_size / tensor
    # Parameters, gradients and two moments, float32.
    state = 16 * one_row.parameters / (fsdp * tensor)
    compute = one_row.flops / (chip.flops * shards * tensor)
    tokens = config.batch_size * length
    gathers = 3 * 2 * one_row.parameters / tensor * (fsdp > 1)
    reduces = 2 * 4 * one_row.parameters / (fsdp * tensor) * (data > 1)
    width = config.model.n_layers * config.model.d_model
    stream = 8 * width * rows * length * (tensor > 1)
    network = (gathers + reduces + stream) / chip.network / tokens
    return Candidate(config, state + kept + logits, max(compute, network))


class _Row(NamedTuple):
    """What one row of a batch needs, on one device."""

    parameters: int
    activations: int
    flops: float
    """For each token, with what the remat policy computes again."""


@lru_cache
def _measure(config: ModelConfig, vocab_size: int, length: int) -> _Row:
    model = build_model(config, vocab_size=vocab_size)
    flops = count_flops(model, length=length)
    return _Row(
        count_parameters(model).total,
        activation_bytes(model, batch_size=1, length=length),
        flops.train + EXTRA_FORWARD[config.remat] * flops.forward,
    )


def _vary(config: TrainConfig, n_devices: int) -> Iterator[TrainConfig]:
    for tensor, remat, factor in itertools.product(TENSOR, REMAT, BATCHES):
        if n_devices % tensor or config.model.n_heads % tensor:
            continue
        rest = n_devices // tensor
        for fsdp in (size for size in range(1, rest + 1) if rest % size == 0):
            batch = round(config.batch_size * factor)
            if batch % (rest * config.accumulate) or batch < 1:
                continue
            yield dataclasses.replace(
                config,
                mesh=f"data:{rest // fsdp},fsdp:{fsdp},tensor:{tensor}",
                batch_size=batch,
                model=dataclasses.replace(
                    config.model,
                    remat=remat,
                    channel_groups=max(tensor, config.model.channel_groups),
                ),
            )


def _vocabulary(config: TrainConfig) -> int:
    kind, _, size = config.data.tokenizer.partition(":")
    return int(size) if kind == "bpe" and size.isdigit() else 32_000


def _order(plan: Plan) -> tuple[bool, float]:
    time = math.inf if plan.times is None else plan.times.step / plan.tokens
    return not plan.memory.fits, time
