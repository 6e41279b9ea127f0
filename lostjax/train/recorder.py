"""What a run writes down: metrics with the clock, evaluations, readings, alarms.

A step's metrics are read while the next step runs, so that the device never waits for
the host. Only the first process writes; the others read along.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack

import jax

from lostjax.nn import count_parameters
from lostjax.steps.readings import headline
from lostjax.steps.state import TrainState
from lostjax.steps.step import Metrics
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.programs import Compiled
from lostjax.train.build.run import Setup
from lostjax.train.build.trajectory import past_variables
from lostjax.train.devices.hosts import is_first_host, on_first_host
from lostjax.train.evaluate import Evaluation, evaluate_heldout
from lostjax.train.log.json_lines import open_sinks
from lostjax.train.log.readings import StabilityLog
from lostjax.train.log.sink import FanOut, Sink
from lostjax.train.log.terminal import Progress
from lostjax.train.report.contents import Timings
from lostjax.train.report.gather import describe_model
from lostjax.train.watch.verdict import Spike, Streak
from lostjax.view.numbers import format_count


class Recorder:
    """Reads metrics one step late, adds the clock, and hands them to the sinks."""

    def __init__(
        self,
        run: Setup,
        sink: Sink,
        *,
        log: StabilityLog | None,
        started: float,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._sink, self._log, self._started = run, sink, log, started
        self._say = say
        self.streak: Streak | None = None
        """Updates in a row that were not taken, once the run's patience is at its
        end."""
        self.spike: Spike | None = None
        """A spike that the run has yet to go back from; what follows it is not
        recorded."""
        self._pending: tuple[int, Metrics] | None = None
        self._last = time.monotonic()
        self._first_step_seconds = math.nan

    @property
    def is_halted(self) -> bool:
        """Whether the run must not go on from the step that was recorded last."""
        return self.streak is not None or self.spike is not None

    def step_done(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step that was dispatched; record the one before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Wait for the pending step and record it."""
        if self._pending is None or self.spike is not None:
            return
        step, metrics = self._pending
        self._pending = None
        readings = metrics.pop("readings", None)
        in_a_row = int(metrics.pop("skipped_in_a_row"))
        spiked, limit = bool(metrics.pop("spiked")), metrics.pop("spike_limit")
        values = {name: value.item() for name, value in metrics.items()}
        if readings is not None:
            readings = jax.device_get(readings)
            values |= headline(readings)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if math.isnan(self._first_step_seconds):
            self._first_step_seconds = now - self._started
        rate = values["tokens"] / seconds if seconds else math.nan  # a coarse clock
        # The schedule goes on with the updates that are taken.
        before = step - 1 - int(values["skipped_total"] - values["skipped"])
        values["learning_rate"] = float(self._run.schedule(before))
        values |= {"time": time.time(), "step_seconds": seconds}
        values["tokens_per_second"] = rate
        if self._run.peak is not None:
            values["mfu"] = rate * self._run.flops_per_token / self._run.peak
        self._sink.write(step, values)
        if readings is not None and self._log is not None:
            norm = values["gradient_norm"]
            self._log.write(step, readings, gradient_norm=norm)
        goes_back = self._run.config.guard.spike == "rollback"
        if spiked and goes_back and self.streak is None:
            self.spike = Spike(step, values["loss"], float(limit))
        elif in_a_row:
            self._note_skip(step, in_a_row, values)

    def _note_skip(self, step: int, in_a_row: int, values: dict[str, float]) -> None:
        """Say that a streak begins, and remember one that is too long."""
        patience = self._run.config.guard.patience
        if 0 < patience <= in_a_row and self.streak is None:
            self.streak = Streak(step, in_a_row)
        if in_a_row == 1:
            loss, norm = values["loss"], values["gradient_norm"]
            self._say(
                f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}: the update "
                "is not taken"
            )

    def go_back(self, step: int) -> None:
        """Say that the run goes back from its spike, and forget later steps.

        Args:
          step: to which; all processes call this.

        Raises:
          OSError: where a file cannot be read or cut.
        """
        spike = self.spike
        assert spike is not None
        count = spike.step - step
        self._say(
            f"step {spike.step}: loss {spike.loss:.4g} is a spike, above "
            f"{spike.limit:.4g}: back to step {step}; {count} "
            f"batch{'es' if count > 1 else ''} passed over"
        )
        on_first_host(lambda: self._forget_after(step))
        self._pending = self.spike = None
        self._last = time.monotonic()

    def _forget_after(self, step: int) -> None:
        self._sink.go_back(step)
        if self._log is not None:
            self._log.go_back(step)

    def evaluate(
        self,
        compiled: Compiled,
        state: TrainState,
        step: int,
        *,
        check: Callable[[], None],
    ) -> Evaluation:
        """Evaluate on the held-out text and record it; what `check` raises ends it."""
        self.flush()
        began = time.monotonic()
        variables = evaluation_variables(state)
        evaluation = evaluate_heldout(self._run, compiled, variables, check=check)
        values = {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "eval_bits_per_byte": evaluation.bits_per_byte,
            "eval_tokens": evaluation.tokens,
        }
        if self._run.config.objective.trajectory == "mesa":
            variables = past_variables(state)
            past = evaluate_heldout(self._run, compiled, variables, check=check)
            values["eval_past_loss"] = past.loss
            values["eval_past_bits_per_byte"] = past.bits_per_byte
        self._last = time.monotonic()
        values["eval_seconds"] = self._last - began
        self._sink.write(step, values)
        return evaluation

    def timings(self, *, compile_seconds: float) -> Timings:
        """Give the clock's story of the run, in seconds since the program began."""
        stepped = not math.isnan(self._first_step_seconds)
        return Timings(
            first_step=self._first_step_seconds if stepped else None,
            compilation=compile_seconds,
            total=time.monotonic() - self._started,
        )


def open_recorder(
    run: Setup, stack: ExitStack, *, first_step: int, started: float
) -> Recorder:
    """Open a run's files and its progress in the terminal, and say that it begins.

    Args:
      run: the run, whose directory exists.
      stack: closes them.
      first_step: steps already done; lines of later ones are removed.
      started: `time.monotonic()` when the program began.
    """
    if not is_first_host():
        return Recorder(
            run, FanOut([]), log=None, started=started, say=lambda text: None
        )
    config = run.config
    progress = Progress(first_step=first_step, last_step=config.steps)
    files = open_sinks(
        run.directory, resume_step=first_step, wandb_project=config.wandb
    )
    sinks: list[Sink] = [files, stack.enter_context(progress)]
    stack.callback(files.close)
    progress.note(_opening_line(run, first_step))
    log: StabilityLog | None = None
    if config.stability.every:
        log = StabilityLog(
            run.directory,
            resume_step=first_step,
            optim=config.optim,
            say=progress.note,
        )
        stack.callback(log.close)
    return Recorder(run, FanOut(sinks), log=log, started=started, say=progress.note)


def _opening_line(run: Setup, first: int) -> str:
    place = f"going on at step {first}" if first else "starting"
    count = format_count(count_parameters(run.model).total)
    return (
        f"{run.directory}: {place}; {describe_model(run.config, run.model)}, {count} "
        f"parameters; {format_count(run.data.train_tokens)} training tokens, "
        f"{run.mesh.size} devices"
    )
