"""A whole run: set up, step, evaluate, checkpoint, report.

Everything that can be refused is refused before anything is written. A step's metrics
are read while the next step runs, so that the device never waits for the host. The
state and the configuration are all that a resumed run needs: batch k is a pure function
of k.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

from lostjax.data import save_tokenizer
from lostjax.nn import count_parameters
from lostjax.train.checkpoint import Checkpoints, open_checkpoints
from lostjax.train.checks import parse_profile
from lostjax.train.config import TrainConfig
from lostjax.train.evaluate import Evaluation, evaluate_heldout
from lostjax.train.hosts import is_first_host
from lostjax.train.mesh import place_batch
from lostjax.train.metrics import FanOut, Sink, open_sinks
from lostjax.train.optimizer import evaluation_variables
from lostjax.train.progress import Progress, print_summary
from lostjax.train.quantities import format_count
from lostjax.train.report import Timings, write_report
from lostjax.train.run_dir import make_run_dir
from lostjax.train.setup import (
    Compiled,
    Setup,
    compile_steps,
    prepare,
    start_state,
)
from lostjax.train.signals import StopRequest, catch_stop_signals
from lostjax.train.stability import headline
from lostjax.train.stability_log import StabilityLog
from lostjax.train.state import TrainState
from lostjax.train.step import Metrics
from lostjax.train.summary import describe_model, summarise
from lostjax.train.trajectory import past_variables


class Outcome(NamedTuple):
    """How a run ended."""

    directory: Path
    """The run's directory."""
    evaluation: Evaluation | None
    """Of the final model on the held-out text; None where the run was stopped."""
    exit_code: int
    """0 when finished; 143 or 130 when stopped by a signal, after saving."""


def train(config: TrainConfig, *, command: str, started: float) -> Outcome:
    """Train, evaluate, checkpoint and report, from the start or from a checkpoint.

    Args:
      config: what to run.
      command: the command line, for the report.
      started: `time.monotonic()` when the program began, for the report.

    Returns:
      How it ended.

    Raises:
      ConfigError, DataError: before anything is written.
    """
    with ExitStack() as stack:
        run = prepare(config)
        stop = StopRequest()
        if jax.process_count() == 1:  # several would have to agree on the step
            stop = stack.enter_context(catch_stop_signals())
        make_run_dir(run.directory, config, needed=run.checkpoint_bytes)
        checkpoints = stack.enter_context(
            open_checkpoints(run.directory / "checkpoints", keep=config.keep)
        )
        first = checkpoints.latest_step() or 0
        if first >= config.steps:
            print(f"{run.directory}: finished, all {first} steps are done")
            return Outcome(run.directory, None, 0)
        if is_first_host():
            save_tokenizer(run.data.tokenizer, run.directory)
        state = _start(run, checkpoints, first)
        compiled = compile_steps(run, state)
        sinks: list[Sink] = []
        log: StabilityLog | None = None
        if is_first_host():
            progress = Progress(first_step=first, last_step=config.steps)
            files = open_sinks(
                run.directory, resume_step=first, wandb_project=config.wandb
            )
            sinks = [files, stack.enter_context(progress)]
            stack.callback(files.close)
            progress.note(_opening_line(run, first))
            if config.stability.every:
                log = StabilityLog(
                    run.directory,
                    resume_step=first,
                    optim=config.optim,
                    say=progress.note,
                )
                stack.callback(log.close)
        recorder = _Recorder(run, FanOut(sinks), log=log, started=started)
        state, step = _run_steps(
            run, compiled, state, recorder, checkpoints=checkpoints, stop=stop
        )
        evaluation = None
        if step == config.steps:
            evaluation = recorder.evaluate(compiled, state, step)
        checkpoints.save(state, step=step)
        checkpoints.wait()
        if evaluation is None or not is_first_host():
            return Outcome(run.directory, evaluation, stop.exit_code)
        timings = recorder.timings(compile_seconds=compiled.seconds)
    report = summarise(run, compiled, state, command=command, timings=timings)
    path = run.directory / "report.html"
    write_report(path, report)
    print_summary(report, path=str(path))
    return Outcome(run.directory, evaluation, 0)


def _start(run: Setup, checkpoints: Checkpoints, step: int) -> TrainState:
    """Make the first state, or read that of a checkpoint."""
    if step:
        return checkpoints.restore(run.abstract, step=step, mesh=run.mesh)
    return start_state(run)


def _run_steps(
    run: Setup,
    compiled: Compiled,
    state: TrainState,
    recorder: "_Recorder",
    *,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """Step until the end or a signal; gives the state and the steps done."""
    config, step = run.config, int(state.step)
    with _profiling(run) as profile_at:
        while step < config.steps and stop.signal is None:
            profile_at(step)
            batch = place_batch(
                lambda rows, step=step: run.data.train.batch_at(step, rows=rows),  # type: ignore[misc]
                mesh=run.mesh,
                batch_size=config.batch_size,
            )
            state, metrics = compiled.advance(state, batch, step=step + 1)
            step += 1
            recorder.step_done(step, metrics)
            if step == config.steps:
                break
            if step % config.checkpoint_every == 0:
                recorder.flush()  # a checkpoint at step S has seen the lines 1..S
                checkpoints.save(state, step=step)
            if config.eval_every and step % config.eval_every == 0:
                recorder.evaluate(compiled, state, step)
    recorder.flush()
    return state, step


class _Recorder:
    """Reads metrics one step late, adds the clock, and hands them to the sinks."""

    def __init__(
        self, run: Setup, sink: Sink, *, log: StabilityLog | None, started: float
    ) -> None:
        self._run, self._sink, self._log, self._started = run, sink, log, started
        self._pending: tuple[int, Metrics] | None = None
        self._last = time.monotonic()
        self._first_step_seconds = math.nan

    def step_done(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step that was dispatched; record the one before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Wait for the pending step and record it."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        readings = metrics.pop("readings", None)
        values = {name: float(value) for name, value in metrics.items()}
        if readings is not None:
            readings = jax.device_get(readings)
            values |= headline(readings)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if math.isnan(self._first_step_seconds):
            self._first_step_seconds = now - self._started
        rate = values["tokens"] / seconds
        values["learning_rate"] = float(self._run.schedule(step - 1))
        values |= {"time": time.time(), "step_seconds": seconds}
        values["tokens_per_second"] = rate
        if self._run.peak is not None:
            values["mfu"] = rate * self._run.flops_per_token / self._run.peak
        self._sink.write(step, values)
        if readings is not None and self._log is not None:
            norm = values["gradient_norm"]
            self._log.write(step, readings, gradient_norm=norm)

    def evaluate(self, compiled: Compiled, state: TrainState, step: int) -> Evaluation:
        """Evaluate on the held-out text and record it."""
        self.flush()
        began = time.monotonic()
        evaluation = evaluate_heldout(self._run, compiled, evaluation_variables(state))
        values = {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "eval_bits_per_byte": evaluation.bits_per_byte,
            "eval_tokens": evaluation.tokens,
        }
        if self._run.config.objective.trajectory == "mesa":
            past = evaluate_heldout(self._run, compiled, past_variables(state))
            values["eval_past_loss"] = past.loss
            values["eval_past_bits_per_byte"] = past.bits_per_byte
        self._last = time.monotonic()
        values["eval_seconds"] = self._last - began
        self._sink.write(step, values)
        return evaluation

    def timings(self, *, compile_seconds: float) -> Timings:
        """Give the clock's story of the run, in seconds since the program began."""
        return Timings(
            first_step=self._first_step_seconds,
            compilation=compile_seconds,
            total=time.monotonic() - self._started,
        )


@contextmanager
def _profiling(run: Setup) -> Iterator[Callable[[int], None]]:
    """Give a function to call before each step; it starts and stops the trace."""
    if run.config.profile is None:
        yield lambda step: None
        return
    start, stop = parse_profile(run.config.profile, steps=run.config.steps)
    running = False

    def at(step: int) -> None:
        nonlocal running
        if step == start:
            jax.profiler.start_trace(str(run.directory / "profile"))
            running = True
        elif running and step == stop:
            jax.profiler.stop_trace()
            running = False

    try:
        yield at
    finally:
        if running:
            jax.profiler.stop_trace()


def _opening_line(run: Setup, first: int) -> str:
    place = f"going on at step {first}" if first else "starting"
    count = format_count(count_parameters(run.model).total)
    return (
        f"{run.directory}: {place}; {describe_model(run.config, run.model)}, {count} "
        f"parameters; {format_count(run.data.train_tokens)} training tokens, "
        f"{run.mesh.size} devices"
    )
