"""A whole run: prepare, step, evaluate, checkpoint, report.

Everything that can be refused is refused before anything is written. The state
and the configuration are all that a resumed run needs: batch k is a pure function of k.
"""

import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lostjax.data import save_tokenizer
from lostjax.disk.lock import LOCK, drop_lock
from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job, prepare_job
from lostjax.train.build.programs import Compiled, compile_steps
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.agreement import check_shared
from lostjax.train.devices.hosts import (
    agree,
    is_first_host,
    leaving_without_the_others,
    on_first_host,
)
from lostjax.train.evaluate import Evaluation, find_evaluation
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.directory import (
    CHECKPOINTS,
    REPORT,
    hold_run_dir,
    refusing_disk_errors,
)
from lostjax.train.loop import step_to_end, was_evaluated
from lostjax.train.recorder import Recorder, open_recorder
from lostjax.train.report.contents import Timings
from lostjax.train.report.gather import summarise
from lostjax.train.report.page import write_report
from lostjax.train.report.preview import print_summary
from lostjax.train.rollback import find_anchor, start_at
from lostjax.train.watch.signals import StopAsked, StopRequest, catch_stop_signals


class Outcome(NamedTuple):
    """The end of a run."""

    directory: Path
    """The run's directory."""
    evaluation: Evaluation | None
    """Of the final model on the held-out text; None if the run was stopped."""
    exit_code: int
    """0 if finished; 143 or 130 if stopped by a signal, after saving; 1 if the last
    checkpoint or the report could not be written; 3 if updates were skipped too often
    in a row, or the loss spiked too often, see `train.watch.diagnosis`."""


class _Ended(NamedTuple):
    """The end of a run, before its report is written."""

    exit_code: int
    evaluation: Evaluation | None = None
    """None if there is nothing to report."""
    state: TrainState | None = None
    compiled: Compiled | None = None
    timings: Timings | None = None


def train(config: TrainConfig, *, command: str, started: float) -> Outcome:
    """Train, evaluate, checkpoint and report, from the start or from a checkpoint.

    Args:
      config: the run.
      command: the command line, for the report.
      started: `time.monotonic()` when the program began, for the report.

    Returns:
      How the run ended.

    Raises:
      ConfigError, DataError: before anything is written.
    """
    with ExitStack() as stack:
        with leaving_without_the_others():
            job = prepare_job(config)
            stop = StopRequest(agree(job.mesh))
            stack.enter_context(catch_stop_signals(stop))
        leaving = partial(leaving_without_the_others, partial(drop_lock, job.directory))
        with leaving():
            checkpoints = _open_directory(job, stack)
        stack.enter_context(leaving())  # what follows is tidied up
        first = checkpoints.find_whole_step() or 0
        was_finished = first >= config.steps
        if was_finished and on_first_host((job.directory / REPORT).exists):
            ended = _Ended(0)
        else:
            ended = _run(
                job,
                stack,
                first=first,
                started=started,
                checkpoints=checkpoints,
                stop=stop,
            )
    code = ended.exit_code
    if ended.evaluation is not None and is_first_host():
        code = _report(job, ended, command=command) or code
    if was_finished:
        print(f"{job.directory}: finished, all {config.steps} steps are done")
    return Outcome(job.directory, ended.evaluation, code)


def _open_directory(job: Job, stack: ExitStack) -> Checkpoints:
    """Become the only writer of the run's directory, and open its checkpoints."""
    held = hold_run_dir(
        job.directory,
        job.config,
        identity=job.data.identity,
        needed=job.checkpoint_bytes,
    )
    on_first_host(lambda: stack.enter_context(held))
    check_shared(job.directory / LOCK)
    with refusing_disk_errors(job.directory):
        checkpoints = stack.enter_context(
            open_checkpoints(job.directory / CHECKPOINTS, keep=job.config.keep)
        )
    return checkpoints


def _run(
    job: Job,
    stack: ExitStack,
    *,
    first: int,
    started: float,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> _Ended:
    """Step from a checkpoint, or from the start, to the end; save and evaluate."""
    with refusing_disk_errors(job.directory):
        on_first_host(lambda: _save_tokenizer(job))
    state = start_at(job, checkpoints, first)
    compiled = compile_steps(job, state)
    with refusing_disk_errors(job.directory):
        recorder = open_recorder(job, stack, first_step=first, started=started)
    state, verdict, code = step_to_end(
        job, compiled, state, recorder=recorder, checkpoints=checkpoints, stop=stop
    )
    evaluation = None
    if code is None:
        step = int(state.step)
        # After a spike nothing is saved: the next start rolls back from it.
        is_kept = verdict.roll_back is None
        if step and is_kept:  # the first state is made again from the seed
            checkpoints.save(state, step=step, also=find_anchor(job, state))
        if step == job.config.steps and is_kept:
            evaluation = _evaluate_last(job, compiled, state, recorder, stop=stop)
        checkpoints.wait()
        lost = checkpoints.failed_step is not None
        code = 1 if lost else 0 if evaluation else stop.exit_code
    timings = recorder.timings(compile_seconds=compiled.seconds)
    return _Ended(code, evaluation, state, compiled, timings)


def _save_tokenizer(job: Job) -> None:
    save_tokenizer(job.data.tokenizer, job.directory)


def _report(job: Job, ended: _Ended, *, command: str) -> int:
    """Write and print a finished run's report; returns 1 if it cannot be written."""
    assert ended.state is not None and ended.compiled and ended.timings
    path, code = job.directory / REPORT, 0
    report = summarise(
        job, ended.compiled, ended.state, command=command, timings=ended.timings
    )
    try:
        write_report(path, report)
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    print_summary(report, path=str(path))
    return code


def _evaluate_last(
    job: Job,
    compiled: Compiled,
    state: TrainState,
    recorder: Recorder,
    *,
    stop: StopRequest,
) -> Evaluation | None:
    """Evaluate the final model, unless that was done; None if a signal ends it."""
    step = job.config.steps
    if was_evaluated(job, step):
        return find_evaluation(job.directory, step=step)
    with suppress(StopAsked):
        return recorder.evaluate(compiled, state, step, check=stop.check)
    return None
