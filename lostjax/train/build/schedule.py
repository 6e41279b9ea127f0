"""Build the learning-rate schedule of a run, extensions included.

The first stretch warms up to the peak. Each further one begins where the one before it
was left, without another warm-up, and ends at `final_fraction` of the peak at most:

    constant   the rate stays as it is
    cosine     half a cosine from the rate as it is
    wsd        the peak again, then a linear decay at the end

wsd returns to the peak after a decay as WSD-S does (Wen et al., Understanding
Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective, 2024,
arXiv 2410.05192). Stretches that agree up to where they meet are one: a constant run
of 20 steps that is extended to 40 has the program of one of 40 steps.
"""

import math
from typing import NamedTuple

import optax

from lostjax import optim
from lostjax.errors import ConfigError
from lostjax.train.config.schema import OptimConfig
from lostjax.train.config.stretches import Stretch, list_stretches
from lostjax.view.numbers import format_number


class Part(NamedTuple):
    """A stretch with the step at which it begins."""

    start: int
    stretch: Stretch


def build_schedule(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """Build the learning rate of every step.

    Args:
      config: see `OptimConfig`; already checked.
      steps: steps of the run, positive.

    Returns:
      A function from step (0-based int or int array) to learning rate.

    Raises:
      ConfigError: if an extension would train at a rate of 0.
    """
    first, *later = _list_parts(config, steps=steps)
    rates = [_build_first(config, first.stretch, warmup_steps=_warmup(config, steps))]
    starts: list[int] = []
    for part in later:
        rate = float(optax.join_schedules(rates, starts)(part.start))
        rates.append(_build_next(config, part, rate=rate))
        starts.append(part.start)
    return optax.join_schedules(rates, starts) if later else rates[0]


def describe_schedule(config: OptimConfig, *, steps: int) -> str:
    """Describe the learning rate of a run in a line."""
    parts = _list_parts(config, steps=steps)
    schedule = build_schedule(config, steps=steps)
    peak = format_number(config.learning_rate)
    warmup = _warmup(config, steps)
    unit = "step" if warmup == 1 else "steps"
    text = f"learning rate: {warmup} {unit} of warm-up to {peak}"
    for start, stretch in parts:
        begun = f" from step {start}" if start else ""
        text += f"; {_describe(config, stretch)}{begun} to step {stretch.until}"
    # That of the last step: the step after it would have the floor.
    return f"{text}, where it is {format_number(float(schedule(steps - 1)))}"


def _describe(config: OptimConfig, stretch: Stretch) -> str:
    if _kind(config, stretch) != "wsd":
        return _kind(config, stretch)
    peak = format_number(config.learning_rate)
    return f"{peak} until step {stretch.stable_until}, then a linear decay"


def _list_parts(config: OptimConfig, *, steps: int) -> list[Part]:
    """List the stretches, those that agree up to where they meet as one."""
    warmup_steps, start = _warmup(config, steps), 0
    parts: list[Part] = []
    for stretch in list_stretches(config, steps=steps):
        if parts and _agree(config, parts[-1], stretch, warmup_steps=warmup_steps):
            start = parts.pop().start
        parts.append(Part(start, stretch))
        start = stretch.until
    return parts


def _agree(
    config: OptimConfig, before: Part, after: Stretch, *, warmup_steps: int
) -> bool:
    """Return whether the rates up to where two stretches meet are the same in both."""
    meeting = before.stretch.until
    if before.start == 0 and meeting <= warmup_steps:
        return True
    stable = {"constant", "wsd"} if before.start == 0 else {"constant"}
    kinds = {_kind(config, before.stretch), _kind(config, after)}
    return kinds <= stable and meeting <= min(
        part.steps if _kind(config, part) == "constant" else part.stable_until
        for part in (before.stretch, after)
    )


def _kind(config: OptimConfig, stretch: Stretch) -> str:
    """Return the schedule of a stretch; schedule-free averages instead of decaying."""
    return "constant" if config.name == "schedule_free" else stretch.schedule


def _warmup(config: OptimConfig, steps: int) -> int:
    planned = list_stretches(config, steps=steps)[0].steps
    return min(math.ceil(config.warmup * planned), planned - 1)


def _build_first(
    config: OptimConfig, stretch: Stretch, *, warmup_steps: int
) -> optax.Schedule:
    kind, steps = _kind(config, stretch), stretch.steps
    if kind == "cosine":
        return optim.warmup_cosine_schedule(
            config.learning_rate,
            steps=steps,
            warmup_steps=warmup_steps,
            final_fraction=stretch.final_fraction,
        )
    decay_steps = steps - stretch.stable_until if kind == "wsd" else 0
    return optim.warmup_stable_decay_schedule(
        config.learning_rate,
        steps=steps,
        warmup_steps=warmup_steps,
        decay_steps=min(decay_steps, steps - warmup_steps),
        final_fraction=stretch.final_fraction,
    )


def _build_next(config: OptimConfig, part: Part, *, rate: float) -> optax.Schedule:
    """Build the rate of a later stretch, by steps from its own beginning."""
    start, stretch = part
    kind, steps = _kind(config, stretch), stretch.steps - start
    floor = stretch.final_fraction * config.learning_rate
    if kind == "wsd":
        return optim.warmup_stable_decay_schedule(
            config.learning_rate,
            steps=steps,
            warmup_steps=0,
            decay_steps=min(stretch.steps - stretch.stable_until, steps),
            final_fraction=stretch.final_fraction,
        )
    if not rate:
        raise ConfigError(
            f"--optim.schedule={kind}: the learning rate is 0 at step {start} and "
            "would stay 0; wsd returns to the peak, or use --init-from=RUN"
        )
    if kind == "constant":
        return optax.constant_schedule(rate)
    return optim.warmup_cosine_schedule(
        rate, steps=steps, warmup_steps=0, final_fraction=min(1.0, floor / rate)
    )
