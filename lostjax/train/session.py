"""A whole run: prepare, step, evaluate, checkpoint, report.

Everything that can be refused is refused before anything is written. The state
and the configuration are all that a resumed run needs: batch k is a pure function of k.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from signal import Signals
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
from lostjax.train.devices.lifeline import find_lifeline
from lostjax.train.evaluate import Evaluation, find_evaluation
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.commands import mend_commands, record_command
from lostjax.train.keep.directory import (
    CHECKPOINTS,
    REPORT,
    hold_run_dir,
    refusing_disk_errors,
)
from lostjax.train.keep.held_directory import HeldDirectory
from lostjax.train.keep.layout import DESCRIPTION
from lostjax.train.keep.open_files import provide_open_files
from lostjax.train.keep.run_files import print_damage
from lostjax.train.keep.step_directories import list_steps
from lostjax.train.log.output import LOG_FILE, Output, steady_output
from lostjax.train.log.sink import Sink
from lostjax.train.log.tensorboard import TENSORBOARD_FOLDER
from lostjax.train.loop import step_to_end, was_evaluated
from lostjax.train.recorder import Recorder, open_recorder
from lostjax.train.report.contents import Timings
from lostjax.train.report.forecast import describe_forecast
from lostjax.train.report.gather import summarise
from lostjax.train.report.page import write_report
from lostjax.train.report.preview import print_summary
from lostjax.train.rollback import find_anchor, set_anchor, start_at
from lostjax.train.watch.signals import (
    StopAsked,
    StopRequest,
    catch_stop_signals,
    leaving_at_once,
)


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


Catch = Callable[[StopRequest], AbstractContextManager[None]]
"""Turns what stops a run into a request, for a `with` block."""


class _Ended(NamedTuple):
    """The end of a run, before its report is written."""

    exit_code: int
    evaluation: Evaluation | None = None
    """None if there is nothing to report."""
    state: TrainState | None = None
    compiled: Compiled | None = None
    timings: Timings | None = None


def train(
    config: TrainConfig,
    *,
    command: str,
    started: float,
    sinks: Sequence[Sink] = (),
    catch: Catch = catch_stop_signals,
    extends: bool = False,
) -> Outcome:
    """Train, evaluate, checkpoint and report, from the start or from a checkpoint.

    Args:
      config: the run.
      command: the command line, for the report.
      started: `time.monotonic()` when the program began, for the report.
      sinks: take the numbers of the run besides its files; in the first process only.
      catch: catches what stops the run, from before its first step to its last save.
      extends: whether a run of another schedule in the directory is extended.

    Returns:
      How the run ended.

    Raises:
      ConfigError, DataError: before anything is written.
    """
    with steady_output() as output:
        return _train(
            partial(prepare_job, config, extends=extends),
            output,
            command=command,
            started=started,
            sinks=sinks,
            catch=catch,
        )


def _train(
    prepare: Callable[[], Job],
    output: Output,
    *,
    command: str,
    started: float,
    sinks: Sequence[Sink],
    catch: Catch,
) -> Outcome:
    with ExitStack() as stack:
        provide_open_files()
        with leaving_without_the_others():
            job = prepare()
            stop = StopRequest(agree(job.mesh))
            stack.enter_context(catch(stop))
        leaving = partial(leaving_without_the_others, partial(drop_lock, job.directory))
        with leaving():
            checkpoints, held = _open_directory(job, stack, command=command)
            with refusing_disk_errors(job.directory):
                on_first_host(lambda: output.keep_log(job.directory / LOG_FILE))
        stack.enter_context(leaving())  # what follows is tidied up
        first = checkpoints.find_whole_step() or 0
        was_finished = first >= job.config.steps
        if was_finished and on_first_host((job.directory / REPORT).exists):
            on_first_host(partial(print_damage, job.directory))
            ended = _Ended(0)
        else:
            ended = _run(
                job,
                stack,
                first=first,
                sinks=sinks,
                started=started,
                checkpoints=checkpoints,
                held=held,
                stop=stop,
                command=command,
            )
        is_reported = ended.evaluation is not None and is_first_host()
        may_report = is_reported and _may_report(held)
    code = ended.exit_code
    if may_report:
        code = _report(job, ended) or code
        # Somebody may have changed them while the run was writing them.
        if print_damage(job.directory):
            code = code or 1
    elif is_reported:
        code = code or 1
    if was_finished:
        steps, place = job.config.steps, f"={job.directory}"
        print(
            f"{job.directory}: finished, all {steps} steps are done; extend it with "
            f"--resume{place} --steps={2 * steps}, or train its model on other text "
            f"with --init-from{place}"
        )
    return Outcome(job.directory, ended.evaluation, code)


def _open_directory(
    job: Job, stack: ExitStack, *, command: str
) -> tuple[Checkpoints, HeldDirectory]:
    """Become the only writer of the run's directory, and open its checkpoints."""
    held = HeldDirectory(job.directory, partial(_hold, job, command=command))
    on_first_host(lambda: _enter(stack, held))
    check_shared(job.directory / LOCK)
    with refusing_disk_errors(job.directory):
        checkpoints = stack.enter_context(
            open_checkpoints(
                job.directory / CHECKPOINTS,
                keep=job.config.keep,
                ensure_place=held.ensure,
            )
        )
    return checkpoints, held


def _enter(stack: ExitStack, held: HeldDirectory) -> None:
    stack.enter_context(held)


@contextmanager
def _hold(job: Job, *, command: str) -> Iterator[None]:
    """Make, lock and describe the run's directory for a `with` block."""
    with hold_run_dir(
        job.directory,
        job.config,
        identity=job.data.identity,
        needed=job.checkpoint_bytes,
    ):
        with refusing_disk_errors(job.directory):
            save_tokenizer(job.data.tokenizer, job.directory)
            # Events that were written before are written anew in a folder that exists.
            (job.directory / TENSORBOARD_FOLDER).mkdir(exist_ok=True)
            has_commands = mend_commands(job.directory)
            # A resumed run records its command once it steps. This one is new, or made
            # again, or was killed before it recorded its first one.
            if not has_commands and not list_steps(job.directory / CHECKPOINTS):
                record_command(job.directory, command, step=0)
        yield


def _run(
    job: Job,
    stack: ExitStack,
    *,
    first: int,
    sinks: Sequence[Sink],
    started: float,
    checkpoints: Checkpoints,
    held: HeldDirectory,
    stop: StopRequest,
    command: str,
) -> _Ended:
    """Step from a checkpoint, or from the start, to the end; save and evaluate."""
    # Before the first state, which takes minutes itself if the steps do.
    if forecast := is_first_host() and describe_forecast(job):
        print(forecast, flush=True)
    with _nothing_to_save(job, stop):
        state = start_at(job, checkpoints, first)
        compiled = compile_steps(job, state)
    with refusing_disk_errors(job.directory):
        # Compiling takes minutes, in which the directory may be deleted: files that are
        # opened below would make another one of that name.
        on_first_host(held.ensure)
        if first:
            on_first_host(partial(record_command, job.directory, command, step=first))
        on_first_host(partial(held.keep_files, DESCRIPTION))
        recorder = open_recorder(
            job, stack, first_step=first, started=started, also=sinks
        )
    state, verdict, code = step_to_end(
        job, compiled, state, recorder=recorder, checkpoints=checkpoints, stop=stop
    )
    evaluation = None
    if code is None:
        step = int(state.step)
        if stop.signal is not None:
            recorder.note(f"step {step}  stopped by {Signals(stop.signal).name}")
        # After a spike nothing is saved: the next start rolls back from it.
        is_kept = verdict.roll_back is None
        if step == job.config.steps and step % job.config.checkpoint_every == 0:
            state = set_anchor(state, step)  # as a longer run would have here
        if step and is_kept:  # the first state is made again from the seed
            checkpoints.save(state, step=step, also=find_anchor(job, state))
        if step == job.config.steps and is_kept:
            evaluation = _evaluate_last(job, compiled, state, recorder, stop=stop)
        checkpoints.wait()
        is_lost = not checkpoints.holds(step if step and is_kept else None)
        code = 1 if is_lost else 0 if evaluation else stop.exit_code
    timings = recorder.timings(compile_seconds=compiled.seconds)
    return _Ended(code, evaluation, state, compiled, timings)


def _nothing_to_save(job: Job, stop: StopRequest) -> AbstractContextManager[None]:
    """Leave at once if a signal comes; several processes stop together, later."""
    if find_lifeline() is not None:
        return nullcontext()
    return leaving_at_once(stop, partial(drop_lock, job.directory))


def _may_report(held: HeldDirectory) -> bool:
    """Return whether the run's directory is still its own; print why it is not."""
    try:
        held.ensure()
    except OSError as error:
        print(f"no report is written: {error.strerror}", file=sys.stderr)
        return False
    return True


def _report(job: Job, ended: _Ended) -> int:
    """Write and print a finished run's report; returns 1 if it cannot be written."""
    assert ended.state is not None and ended.compiled and ended.timings
    path, code = job.directory / REPORT, 0
    try:
        report = summarise(job, ended.compiled, ended.state, timings=ended.timings)
    except OSError as error:
        print(f"{job.directory}: cannot be read: {error.strerror}", file=sys.stderr)
        return 1
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
