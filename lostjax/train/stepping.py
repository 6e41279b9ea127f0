"""Step a run forward: the one place that places training batches and dispatches steps.

    batch of the next step = batch_at(step + offset)

Dispatching does not wait for the device. Whoever iterates reads metrics one step late,
so that at most two steps are in flight.
"""

from collections.abc import Callable, Iterator

from lostjax.steps.state import TrainState
from lostjax.steps.step import Metrics
from lostjax.train.build.job import Job
from lostjax.train.build.programs import Compiled
from lostjax.train.devices.sharding import place_batch


class Stepping:
    """Iterates over (step, metrics) until all steps of the run are dispatched.

    Args:
      job: the run.
      compiled: its programs.
      state: where to start; it is used up.
      before: is called with the number of finished steps before each dispatch; ends
        the iteration by raising.
    """

    def __init__(
        self,
        job: Job,
        compiled: Compiled,
        state: TrainState,
        *,
        before: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._job, self._compiled, self._before = job, compiled, before
        self.step = int(state.step)
        """Steps dispatched so far."""
        self.state = state
        """The state after them; may be replaced by another one of the same step."""

    def __iter__(self) -> Iterator[tuple[int, Metrics]]:
        job, offset = self._job, int(self.state.offset)
        while self.step < job.config.steps:
            self._before(self.step)
            batch = place_batch(job.data.train, self.step + offset, mesh=job.mesh)
            self.step += 1
            self.state, metrics = self._compiled.advance(
                self.state, batch, step=self.step
            )
            yield self.step, metrics
