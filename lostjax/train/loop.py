"""A whole run: set up, step, evaluate, checkpoint, report.

Everything that can be refused is refused before anything is written. The state
and the configuration are all that a resumed run needs: batch k is a pure function of k.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import jax

from lostjax.data import save_tokenizer
from lostjax.train.checkpoint import Checkpoints, open_checkpoints
from lostjax.train.checks import parse_profile
from lostjax.train.config import TrainConfig
from lostjax.train.diagnosis import report_streak
from lostjax.train.evaluate import Evaluation, find_evaluation
from lostjax.train.hosts import (
    agree,
    is_first_host,
    leaving_without_the_others,
    on_first_host,
)
from lostjax.train.mesh import place_batch
from lostjax.train.programs import Compiled, compile_steps
from lostjax.train.progress import print_summary
from lostjax.train.recorder import Recorder, open_recorder
from lostjax.train.report import write_report
from lostjax.train.run_dir import (
    CHECKPOINTS,
    REPORT,
    hold_run_dir,
    refusing_disk_errors,
)
from lostjax.train.setup import Setup, prepare, start_state
from lostjax.train.signals import StopAsked, StopRequest, catch_stop_signals
from lostjax.train.state import TrainState
from lostjax.train.summary import summarise


class Outcome(NamedTuple):
    """How a run ended."""

    directory: Path
    """The run's directory."""
    evaluation: Evaluation | None
    """Of the final model on the held-out text; None where the run was stopped."""
    exit_code: int
    """0 when finished; 143 or 130 when stopped by a signal, after saving; 1 when the
    last checkpoint or the report could not be written; 3 when updates were not taken
    too often in a row, see `train.diagnosis`."""


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
        stop = StopRequest(agree(run.mesh))
        stack.enter_context(catch_stop_signals(stop))
        held = hold_run_dir(
            run.directory,
            config,
            identity=run.data.identity,
            needed=run.checkpoint_bytes,
        )
        on_first_host(lambda: stack.enter_context(held))
        with refusing_disk_errors(run.directory):
            checkpoints = stack.enter_context(
                open_checkpoints(run.directory / CHECKPOINTS, keep=config.keep)
            )
        stack.enter_context(leaving_without_the_others())  # what follows is tidied up
        first = checkpoints.find_whole_step() or 0
        path = run.directory / REPORT
        if first >= config.steps and on_first_host(path.exists):
            print(_finished(run))
            return Outcome(run.directory, None, 0)
        with refusing_disk_errors(run.directory):
            on_first_host(lambda: _save_tokenizer(run))
        state = _start(run, checkpoints, first)
        compiled = compile_steps(run, state)
        with refusing_disk_errors(run.directory):
            recorder = open_recorder(run, stack, first_step=first, started=started)
        state, step = _run_steps(
            run, compiled, state, recorder, checkpoints=checkpoints, stop=stop
        )
        if recorder.streak is not None:
            code = report_streak(run, state, recorder.streak)
            return Outcome(run.directory, None, code)
        if step:  # the first state is made again from the seed
            checkpoints.save(state, step=step)
        evaluation = None
        if step == config.steps:
            evaluation = _evaluate_last(run, compiled, state, recorder, stop=stop)
        checkpoints.wait()
        lost = checkpoints.failed_step is not None
        if evaluation is None or not is_first_host():
            return Outcome(run.directory, evaluation, 1 if lost else stop.exit_code)
        timings = recorder.timings(compile_seconds=compiled.seconds)
    report = summarise(run, compiled, state, command=command, timings=timings)
    try:
        write_report(path, report)
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror}", file=sys.stderr)
        lost = True
    print_summary(report, path=str(path))
    if first >= config.steps:
        print(_finished(run))
    return Outcome(run.directory, evaluation, 1 if lost else 0)


def _finished(run: Setup) -> str:
    return f"{run.directory}: finished, all {run.config.steps} steps are done"


def _save_tokenizer(run: Setup) -> None:
    save_tokenizer(run.data.tokenizer, run.directory)


def _start(run: Setup, checkpoints: Checkpoints, step: int) -> TrainState:
    """Make the first state, or read that of a checkpoint."""
    if step:
        return checkpoints.restore(run.abstract, step=step, mesh=run.mesh)
    return start_state(run)


def _run_steps(
    run: Setup,
    compiled: Compiled,
    state: TrainState,
    recorder: Recorder,
    *,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """Step until the end or a signal; gives the state and the steps done."""
    config, step = run.config, int(state.step)
    with _profiling(run) as profile_at, suppress(StopAsked):
        if _is_evaluated_at(config, step) and not _was_evaluated(run, step):
            recorder.evaluate(compiled, state, step, check=stop.check)
        while step < config.steps and not recorder.streak:
            stop.check()
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
                if recorder.streak:
                    break
                checkpoints.save(state, step=step)
            if _is_evaluated_at(config, step):
                recorder.evaluate(compiled, state, step, check=stop.check)
    recorder.flush()
    return state, step


def _is_evaluated_at(config: TrainConfig, step: int) -> bool:
    """Say whether a step on the way is followed by an evaluation."""
    every = config.eval_every
    return every > 0 and 0 < step < config.steps and step % every == 0


def _was_evaluated(run: Setup, step: int) -> bool:
    """Say whether an earlier process wrote the evaluation of a step down."""
    found = on_first_host(lambda: find_evaluation(run.directory, step=step) is not None)
    return bool(found)


def _evaluate_last(
    run: Setup,
    compiled: Compiled,
    state: TrainState,
    recorder: Recorder,
    *,
    stop: StopRequest,
) -> Evaluation | None:
    """Evaluate the final model, unless that was done; None where a signal ends it."""
    step = run.config.steps
    if _was_evaluated(run, step):
        return find_evaluation(run.directory, step=step)
    with suppress(StopAsked):
        return recorder.evaluate(compiled, state, step, check=stop.check)
    return None


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
