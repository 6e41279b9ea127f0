"""Judge a step: does the run go on, return to a checkpoint, or stop?

The judgement is pure: it follows from what was read of one step and from the guard's
configuration. The loop alone acts on it.
"""

from typing import NamedTuple

from lostjax.train.config.schema import GuardConfig


class Seen(NamedTuple):
    """The numbers of one step that a verdict depends on."""

    step: int
    """Counted from 1."""
    loss: float
    gradient_norm: float
    skipped_in_a_row: int
    """Updates skipped since the last one that was applied, this one among them."""
    spiked: bool
    """Whether the loss is a spike."""
    spike_limit: float
    """The loss above which it is one."""


class Streak(NamedTuple):
    """Updates in a row that were skipped."""

    last_step: int
    """Step of the last one, counted from 1."""
    length: int

    @property
    def first_step(self) -> int:
        """Step of the first one, counted from 1."""
        return self.last_step - self.length + 1


class Spike(NamedTuple):
    """A step whose loss is a spike."""

    step: int
    """Counted from 1."""
    loss: float
    limit: float
    """The loss above which it is one."""


class Verdict(NamedTuple):
    """At most one of `stop` and `roll_back` is set; without either the run goes on."""

    stop: Streak | None = None
    """Skipped updates, as many as the run's patience allows."""
    roll_back: Spike | None = None
    """A spike to return from."""
    note: str = ""
    """A line for whoever watches the run."""

    @property
    def ends(self) -> bool:
        """Whether no further step follows."""
        return self.stop is not None or self.roll_back is not None


def judge(seen: Seen | None, guard: GuardConfig) -> Verdict:
    """Judge a step.

    Args:
      seen: numbers of the step; None if nothing was read since the last verdict.
      guard: patience, and the treatment of spikes.
    """
    if seen is None:
        return Verdict()
    if seen.spiked and guard.spike == "rollback":
        return Verdict(roll_back=Spike(seen.step, seen.loss, seen.spike_limit))
    length = seen.skipped_in_a_row
    note = (
        f"step {seen.step}: loss {seen.loss:.4g}, gradient norm "
        f"{seen.gradient_norm:.4g}: the update is skipped"
    )
    return Verdict(
        stop=Streak(seen.step, length) if 0 < guard.patience <= length else None,
        note=note if length == 1 else "",
    )
