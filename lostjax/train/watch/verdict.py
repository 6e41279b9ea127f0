"""What a run's numbers ask for: go on, save, roll back, stop."""

from typing import NamedTuple


class Streak(NamedTuple):
    """Updates in a row that were not taken."""

    last_step: int
    """Step of the last one, counted from 1."""
    length: int

    @property
    def first_step(self) -> int:
        """Step of the first one, counted from 1."""
        return self.last_step - self.length + 1


class Spike(NamedTuple):
    """A step whose loss is a spike, where the run goes back before it."""

    step: int
    """Counted from 1."""
    loss: float
    limit: float
    """The loss past which it is one."""
