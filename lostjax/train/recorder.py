"""Write down a run: metrics with the clock, evaluations, readings, alarms.

A step's metrics are read while the next step runs, so that the device never waits for
the host. Only the first process writes; the others read along. Nothing is decided here.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax

from lostjax.disk.chain import DamagedLines
from lostjax.nn import count_parameters
from lostjax.steps.readings import headline
from lostjax.steps.state import TrainState
from lostjax.steps.step import Metrics
from lostjax.train.build.job import Job
from lostjax.train.build.model import choose_attention
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.build.programs import Compiled
from lostjax.train.build.schedule import describe_schedule
from lostjax.train.devices.hosts import is_first_host, on_first_host
from lostjax.train.evaluate import Evaluation, evaluate_heldout
from lostjax.train.log.json_lines import STABILITY_FILE, open_sinks, read_metrics
from lostjax.train.log.readings import StabilityLog
from lostjax.train.log.sink import FanOut, Sink
from lostjax.train.log.terminal import Progress
from lostjax.train.report.contents import Timings
from lostjax.train.report.gather import describe_model
from lostjax.train.watch.verdict import Seen, Spike
from lostjax.view.numbers import format_count


class Recorder:
    """Reads metrics one step late, adds the clock, and writes them to the sinks."""

    def __init__(
        self,
        job: Job,
        sink: Sink,
        *,
        log: StabilityLog | None,
        started: float,
        spent: float,
        note: Callable[[str], None],
    ) -> None:
        self._job, self._sink, self._log, self._started = job, sink, log, started
        self._spent = spent
        self.note = note
        """Prints a line for whoever watches the run."""
        self._pending: tuple[int, Metrics] | None = None
        self._last = time.monotonic()
        self._first_step_seconds = math.nan
        self._peak, self._flops = job.peak_flops, job.flops_per_token

    def step_done(self, step: int, metrics: Metrics) -> Seen | None:
        """Take the metrics of a step that was dispatched; record the one before.

        Returns:
          The numbers of the step before; None if it was recorded already.
        """
        seen = self.flush()
        self._pending = (step, metrics)
        return seen

    def flush(self) -> Seen | None:
        """Wait for the pending step and record it.

        Returns:
          Its numbers; None if no step is pending.
        """
        if self._pending is None:
            return None
        step, metrics = self._pending
        self._pending = None
        readings = metrics.pop("readings", None)
        in_a_row = int(metrics.pop("skipped_in_a_row"))
        spiked, limit = bool(metrics.pop("spiked")), metrics.pop("spike_limit")
        values = {name: value.item() for name, value in metrics.items()}
        if readings is not None:
            readings = jax.device_get(readings)
            values |= headline(readings)
        # The schedule advances with the updates that are applied.
        before = step - 1 - int(values["skipped_total"] - values["skipped"])
        values["learning_rate"] = float(self._job.schedule(before))
        values |= self._clock(values["tokens"])
        self._sink.write(step, values)
        norm = values["gradient_norm"]
        if readings is not None and self._log is not None:
            self._log.write(step, readings, gradient_norm=norm)
        return Seen(step, values["loss"], norm, in_a_row, spiked, float(limit))

    def _clock(self, tokens: float) -> dict[str, float]:
        """Read the clock at the end of a step of so many tokens."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if math.isnan(self._first_step_seconds):
            self._first_step_seconds = now - self._started
        rate = tokens / seconds if seconds else math.nan  # a coarse clock
        values = {"time": time.time(), "step_seconds": seconds}
        values["elapsed"] = self._elapsed()
        values["tokens_per_second"] = rate
        if self._peak is not None:
            values["mfu"] = rate * self._flops / self._peak
        return values

    def roll_back(self, spike: Spike, *, step: int) -> None:
        """Announce that the run returns from a spike, and forget later steps.

        Args:
          spike: where it returns from.
          step: the step that it returns to. All processes call this.

        Raises:
          OSError: if a file cannot be read or cut.
        """
        count = spike.step - step
        self.note(
            f"step {spike.step}: loss {spike.loss:.4g} is a spike, above "
            f"{spike.limit:.4g}: back to step {step}; {count} "
            f"batch{'es' if count > 1 else ''} passed over"
        )
        on_first_host(lambda: self._forget_after(step))
        self._pending = None
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
        """Evaluate on the held-out text and record it; `check` ends it by raising.

        No step may be pending.
        """
        began = time.monotonic()
        variables = evaluation_variables(state)
        evaluation = evaluate_heldout(self._job, compiled, variables, check=check)
        values = {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "eval_bits_per_byte": evaluation.bits_per_byte,
            "eval_tokens": evaluation.tokens,
        }
        average = self._job.trajectory.average
        if average is not None:
            past = evaluate_heldout(self._job, compiled, average(state), check=check)
            values["eval_past_loss"] = past.loss
            values["eval_past_bits_per_byte"] = past.bits_per_byte
        self._last = time.monotonic()
        values["eval_seconds"] = self._last - began
        self._sink.write(step, values)
        return evaluation

    def timings(self, *, compile_seconds: float) -> Timings:
        """Summarise the clock: seconds of this process, and of the whole run."""
        stepped = not math.isnan(self._first_step_seconds)
        return Timings(
            first_step=self._first_step_seconds if stepped else None,
            compilation=compile_seconds,
            total=self._elapsed(),
        )

    def _elapsed(self) -> float:
        """Return the seconds that all processes of the run took so far, in turn."""
        return self._spent + time.monotonic() - self._started


def open_recorder(
    job: Job,
    stack: ExitStack,
    *,
    first_step: int,
    started: float,
    also: Sequence[Sink] = (),
) -> Recorder:
    """Open a run's files and its progress in the terminal, and announce its start.

    Args:
      job: the run, whose directory exists.
      stack: closes them.
      first_step: steps already done; lines of later ones are removed.
      started: `time.monotonic()` when the program began.
      also: sinks besides the run's files and the terminal; closed by their owner.
    """
    if not is_first_host():
        return Recorder(
            job,
            FanOut([]),
            log=None,
            started=started,
            spent=0.0,
            note=lambda text: None,
        )
    config = job.config
    progress = Progress(first_step=first_step, last_step=config.steps)
    spent = _read_elapsed(job.directory)  # before the lines of lost steps are cut off
    files = open_sinks(
        job.directory, resume_step=first_step, wandb_project=config.wandb
    )
    sinks: list[Sink] = [files, stack.enter_context(progress), *also]
    stack.callback(files.close)
    progress.note(_opening_line(job, first_step))
    progress.note(describe_schedule(config.optim, steps=config.steps))
    log: StabilityLog | None = None
    # A run that stops its readings still drops those of later steps.
    if config.stability.every or (job.directory / STABILITY_FILE).exists():
        log = StabilityLog(
            job.directory,
            resume_step=first_step,
            optim=config.optim,
            say=progress.note,
        )
        stack.callback(log.close)
    return Recorder(
        job,
        FanOut(sinks),
        log=log,
        started=started,
        spent=spent,
        note=progress.note,
    )


def _read_elapsed(run_dir: Path) -> float:
    """Read the seconds that earlier processes of a run took, 0 if there were none."""
    try:
        lines = read_metrics(run_dir)
    except DamagedLines as error:  # opening the file prints what is damaged
        lines = error.whole
    known = (float(line.get("elapsed", 0.0)) for line in lines)
    return max(filter(math.isfinite, known), default=0.0)


def _opening_line(job: Job, first: int) -> str:
    place = f"resuming at step {first}" if first else "starting"
    attention = choose_attention(
        job.config.model, mesh=job.mesh, length=job.config.data.seq_len
    )
    count = format_count(count_parameters(job.model).total)
    return (
        f"{job.directory}: {place}; {describe_model(job.config, job.model)}, {count} "
        f"parameters, attention by {attention}; "
        f"{format_count(job.data.train_tokens)} training tokens, "
        f"{job.mesh.size} x {job.mesh.devices.flat[0].device_kind}"
    )
