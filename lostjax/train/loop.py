"""A whole run: set up, step, evaluate, checkpoint, report.

Everything that can be refused is refused before anything is written. The state
and the configuration are all that a resumed run needs: batch k is a pure function of k.
After a loss spike the steps go on from an earlier state, where that is asked for.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from lostjax.data import Batch, save_tokenizer
from lostjax.disk.lock import drop_lock
from lostjax.steps.state import TrainState
from lostjax.train.build.programs import Compiled, compile_steps
from lostjax.train.build.run import Setup, prepare
from lostjax.train.config.checks import parse_profile
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.hosts import (
    agree,
    is_first_host,
    leaving_without_the_others,
    on_first_host,
)
from lostjax.train.devices.mesh import place_batch
from lostjax.train.evaluate import Evaluation, find_evaluation
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.directory import (
    CHECKPOINTS,
    REPORT,
    hold_run_dir,
    refusing_disk_errors,
)
from lostjax.train.recorder import Recorder, open_recorder
from lostjax.train.report.gather import summarise
from lostjax.train.report.page import write_report
from lostjax.train.report.preview import print_summary
from lostjax.train.rollback import find_anchor, go_back, set_anchor, start_at
from lostjax.train.watch.diagnosis import report_streak
from lostjax.train.watch.signals import StopAsked, StopRequest, catch_stop_signals


class Outcome(NamedTuple):
    """How a run ended."""

    directory: Path
    """The run's directory."""
    evaluation: Evaluation | None
    """Of the final model on the held-out text; None where the run was stopped."""
    exit_code: int
    """0 when finished; 143 or 130 when stopped by a signal, after saving; 1 when the
    last checkpoint or the report could not be written; 3 when updates were not taken
    too often in a row, or the loss spiked too often, see `train.watch.diagnosis`."""


class Stepped(NamedTuple):
    """How a run's steps ended."""

    state: TrainState
    step: int
    """Steps done."""
    exit_code: int | None = None
    """Where the guard stopped them; nothing is saved then."""


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
        leaving = leaving_without_the_others(partial(drop_lock, run.directory))
        stack.enter_context(leaving)  # what follows is tidied up
        first = checkpoints.find_whole_step() or 0
        path = run.directory / REPORT
        if first >= config.steps and on_first_host(path.exists):
            print(_finished(run))
            return Outcome(run.directory, None, 0)
        with refusing_disk_errors(run.directory):
            on_first_host(lambda: _save_tokenizer(run))
        state = start_at(run, checkpoints, first)
        compiled = compile_steps(run, state)
        with refusing_disk_errors(run.directory):
            recorder = open_recorder(run, stack, first_step=first, started=started)
        state, step, code = _run_steps(
            run, compiled, state, recorder, checkpoints=checkpoints, stop=stop
        )
        if code is not None:
            return Outcome(run.directory, None, code)
        is_kept = recorder.spike is None  # or the next start goes back from it
        if step and is_kept:  # the first state is made again from the seed
            checkpoints.save(state, step=step, also=find_anchor(run, state))
        evaluation = None
        if step == config.steps and is_kept:
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


def _run_steps(
    run: Setup,
    compiled: Compiled,
    state: TrainState,
    recorder: Recorder,
    *,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> Stepped:
    """Step until the end, a signal or the guard, and go back from spikes on the way."""
    step = int(state.step)
    with suppress(StopAsked):
        if _is_evaluated_at(run.config, step) and not _was_evaluated(run, step):
            recorder.evaluate(compiled, state, step, check=stop.check)
    while True:
        state, step = _step_on(
            run, compiled, state, recorder, checkpoints=checkpoints, stop=stop
        )
        if recorder.streak is not None:
            return Stepped(state, step, report_streak(run, state, recorder.streak))
        if recorder.spike is None or stop.signal is not None:
            return Stepped(state, step)
        state, code = go_back(run, state, recorder, checkpoints)
        if code is not None:
            return Stepped(state, int(state.step), code)


def _step_on(
    run: Setup,
    compiled: Compiled,
    state: TrainState,
    recorder: Recorder,
    *,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> tuple[TrainState, int]:
    """Step until the end, a signal, or where the guard lets no step follow."""
    config, step, offset = run.config, int(state.step), int(state.offset)
    with _profiling(run) as profile_at, suppress(StopAsked):
        while step < config.steps and not recorder.is_halted:
            stop.check()
            profile_at(step)
            batch = place_batch(
                partial(_rows_of, run, step + offset),
                mesh=run.mesh,
                batch_size=config.batch_size,
            )
            state, metrics = compiled.advance(state, batch, step=step + 1)
            step += 1
            recorder.step_done(step, metrics)
            if step == config.steps:
                break
            is_due = step % config.checkpoint_every == 0
            if is_due or _is_evaluated_at(config, step):
                recorder.flush()  # a checkpoint at step S has seen the lines 1..S
                if recorder.is_halted:
                    break
            if is_due:
                state = set_anchor(state, step)
                checkpoints.save(state, step=step, also=find_anchor(run, state))
            if _is_evaluated_at(config, step):
                recorder.evaluate(compiled, state, step, check=stop.check)
    recorder.flush()
    return state, step


def _rows_of(run: Setup, number: int, rows: slice) -> Batch:
    return run.data.train.batch_at(number, rows=rows)


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
