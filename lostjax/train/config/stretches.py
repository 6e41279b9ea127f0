"""The stretches of a run's learning rate: one, and one more for each extension.

    optim.earlier = UNTIL:STEPS:SCHEDULE:FINAL:DECAY, ...     what was planned, how far
                                                              it went, oldest first

A run that is extended keeps what it had planned before, so that its configuration holds
its whole schedule: a resumed run and a new one from the same file have the same rates.
Shares of all steps that decide the beginning (warm-ups) are of the first plan.
"""

import dataclasses
from typing import NamedTuple, get_args

from lostjax.errors import ConfigError, nearest_hint
from lostjax.numerals import read_whole
from lostjax.train.config.fields import deciding_fields, replace_in
from lostjax.train.config.schema import OptimConfig, ScheduleName, TrainConfig

EXTENDED = ("steps", "optim.schedule", "optim.final_fraction", "optim.decay_fraction")
"""Fields that an extension may change."""


class Stretch(NamedTuple):
    """A plan of the learning rate, and the step up to which it was followed."""

    until: int
    """Last step of the stretch."""
    steps: int
    """Steps of the whole run, as they were planned."""
    schedule: ScheduleName
    final_fraction: float
    decay_fraction: float

    @property
    def stable_until(self) -> int:
        """Step up to which the rate after the warm-up is constant."""
        if self.schedule == "constant":
            return self.until
        if self.schedule == "cosine":
            return 0
        return self.steps - max(1, round(self.decay_fraction * self.steps))


def list_stretches(optim: OptimConfig, *, steps: int) -> list[Stretch]:
    """List the stretches of a run, oldest first.

    Args:
      optim: names the last schedule and the earlier ones.
      steps: steps of the run.

    Raises:
      ConfigError: if `optim.earlier` cannot be read or does not fit the steps.
    """
    earlier = [_parse(text, optim.earlier) for text in optim.earlier.split(",") if text]
    last = Stretch(
        steps, steps, optim.schedule, optim.final_fraction, optim.decay_fraction
    )
    whole = [*earlier, last]
    ends = [0, *(stretch.until for stretch in whole)]
    if any(after <= before for before, after in zip(ends, ends[1:], strict=False)):
        raise ConfigError(
            f"--optim.earlier={optim.earlier:.80}: its steps must rise from 1 to below "
            f"--steps={steps}"
        )
    return whole


def first_steps(config: TrainConfig) -> int:
    """Return the steps that a run was begun with: warm-ups are shares of them."""
    return list_stretches(config.optim, steps=config.steps)[0].steps


def extend_config(stored: TrainConfig, asked: TrainConfig, *, step: int) -> TrainConfig:
    """Extend a run from a checkpoint.

    Args:
      stored: the run's configuration.
      asked: the same with other steps or another schedule; see `EXTENDED`.
      step: of the checkpoint from which the rest follows `asked`.

    Returns:
      What is asked for, with what was planned before in `optim.earlier`.

    Raises:
      ConfigError: if the run is past the steps that are asked for.
    """
    if asked.steps <= step:
        raise ConfigError(
            f"--steps={asked.steps}: the run is at step {step} already; pass more"
        )
    stretches = list_stretches(stored.optim, steps=stored.steps)
    # Not the last plan if it was never followed: a run extended twice from one step.
    followed = next((each for each in stretches if each.until >= step), stretches[-1])
    earlier = [each for each in stretches if each.until < followed.until]
    entries = [*earlier, followed._replace(until=step)]
    return replace_in(asked, "optim", earlier=",".join(map(_format, entries)))


def may_extend(stored: TrainConfig, asked: TrainConfig) -> bool:
    """Return whether two configurations differ in what an extension may change."""
    before, now = deciding_fields(stored), deciding_fields(asked)
    changed = {name for name, value in now.items() if before[name] != value}
    return bool(changed) and changed <= set(EXTENDED)


def is_extension(stored: TrainConfig, config: TrainConfig) -> bool:
    """Return whether a configuration extends another one; see `extend_config`."""
    try:
        stretches = list_stretches(config.optim, steps=config.steps)
    except ConfigError:
        return False
    if len(stretches) < 2:
        return False
    asked = replace_in(config, "optim", earlier=stored.optim.earlier)
    step = stretches[-2].until
    return may_extend(stored, asked) and config == extend_config(
        stored, asked, step=step
    )


def adopt_settled(stored: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """Take over what a run settled when it was begun or extended.

    A script that repeats its command line resumes the run that it began.
    """
    if not asked.optim.earlier:
        asked = replace_in(asked, "optim", earlier=stored.optim.earlier)
    if asked.init_from is not None and asked.init_step is None:
        asked = dataclasses.replace(asked, init_step=stored.init_step)
    weights, settled = asked.objective.token_weights, stored.objective.token_weights
    if weights.reference is not None and not weights.digest:
        step = settled.step if weights.step is None else weights.step
        asked = replace_in(
            asked, "objective.token_weights", step=step, digest=settled.digest
        )
    return asked


def _format(stretch: Stretch) -> str:
    return (
        f"{stretch.until}:{stretch.steps}:{stretch.schedule}:"
        f"{stretch.final_fraction!r}:{stretch.decay_fraction!r}"
    )


def _parse(text: str, whole: str) -> Stretch:
    until, steps, schedule, *shares = [*text.split(":"), "", "", ""][:5]
    numbers = [read_whole(until), read_whole(steps)]
    try:
        final, decay = map(float, shares)
    except ValueError:
        final = decay = -1.0
    names = get_args(ScheduleName)
    if (
        text.count(":") != 4
        or None in numbers
        or schedule not in names
        or not (0 <= final <= 1 and 0 <= decay <= 1)
    ):
        hint = nearest_hint(schedule, names) if schedule not in names else ""
        raise ConfigError(
            f"--optim.earlier={whole:.80}: must be UNTIL:STEPS:SCHEDULE:FINAL:DECAY "
            f"such as 600:600:cosine:0.1:0.2, and more of them after commas{hint}"
        )
    first, planned = numbers
    assert first is not None and planned is not None
    made: ScheduleName = schedule  # type: ignore[assignment]
    return Stretch(first, planned, made, final, decay)
