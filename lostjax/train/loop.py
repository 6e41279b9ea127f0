"""The loop: step, and decide after every step what follows.

The recorder only writes and `watch.verdict.judge` only judges; the loop here decides:
go on, save, evaluate, roll back, stop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import jax

from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job
from lostjax.train.build.programs import Compiled
from lostjax.train.config.checks import parse_profile
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.hosts import (
    on_first_host,
)
from lostjax.train.evaluate import find_evaluation
from lostjax.train.keep.checkpoints import Checkpoints
from lostjax.train.recorder import Recorder
from lostjax.train.rollback import find_anchor, roll_back, set_anchor
from lostjax.train.stepping import Stepping
from lostjax.train.watch.signals import StopAsked, StopRequest
from lostjax.train.watch.stop_report import report_streak
from lostjax.train.watch.verdict import Verdict, judge


class _Stepped(NamedTuple):
    """The end of a run's steps."""

    state: TrainState
    verdict: Verdict
    """Of the last step that was read."""
    exit_code: int | None = None
    """Of a run that the guard stopped; nothing is saved then."""


def step_to_end(
    job: Job,
    compiled: Compiled,
    state: TrainState,
    *,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> _Stepped:
    """Step until the end, a signal or the guard, and roll back from spikes."""
    step = int(state.step)
    with suppress(StopAsked):
        if _is_evaluated_at(job.config, step) and not was_evaluated(job, step):
            recorder.evaluate(compiled, state, step, check=stop.check)
    while True:
        state, verdict, _ = _step_on(
            job, compiled, state, recorder=recorder, checkpoints=checkpoints, stop=stop
        )
        code = None
        if verdict.stop is not None:
            code = report_streak(job, state, verdict.stop)
        elif verdict.roll_back is not None and stop.signal is None:
            state, code = roll_back(
                job,
                state,
                spike=verdict.roll_back,
                recorder=recorder,
                checkpoints=checkpoints,
            )
            if code is None:
                continue
        return _Stepped(state, verdict, code)


def _step_on(
    job: Job,
    compiled: Compiled,
    state: TrainState,
    *,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> _Stepped:
    """Step until the end, a signal, or a verdict after which no step follows."""
    config, verdict = job.config, Verdict()
    with _profiling(job) as profile_at, suppress(StopAsked):

        def before(step: int) -> None:
            stop.check()
            profile_at(step)

        steps = Stepping(job, compiled, state, before=before)
        del state  # it is used up
        for step, metrics in steps:
            verdict = _announce(
                judge(recorder.step_done(step, metrics), config.guard), recorder
            )
            is_saved = step % config.checkpoint_every == 0
            is_evaluated = _is_evaluated_at(config, step)
            if step == config.steps or verdict.ends:
                break
            if is_saved or is_evaluated:
                # A checkpoint at step S has seen the lines 1..S.
                verdict = _announce(judge(recorder.flush(), config.guard), recorder)
                if verdict.ends:
                    break
            if is_saved:
                steps.state = set_anchor(steps.state, step)
                anchor = find_anchor(job, steps.state)
                checkpoints.save(steps.state, step=step, also=anchor)
            if is_evaluated:
                recorder.evaluate(compiled, steps.state, step, check=stop.check)
    if verdict.roll_back is None:  # or the step after the spike would be recorded
        late = _announce(judge(recorder.flush(), config.guard), recorder)
        verdict = verdict if verdict.ends else late
    return _Stepped(steps.state, verdict)


def _announce(verdict: Verdict, recorder: Recorder) -> Verdict:
    if verdict.note:
        recorder.note(verdict.note)
    return verdict


def _is_evaluated_at(config: TrainConfig, step: int) -> bool:
    """Say whether a step on the way is followed by an evaluation."""
    every = config.eval_interval
    return every > 0 and 0 < step < config.steps and step % every == 0


def was_evaluated(job: Job, step: int) -> bool:
    """Say whether an earlier process recorded the evaluation of a step."""
    return bool(on_first_host(lambda: _find_evaluation(job, step)))


def _find_evaluation(job: Job, step: int) -> bool:
    try:
        return find_evaluation(job.directory, step=step) is not None
    except OSError:  # the directory is gone; the next save makes it again, or says so
        return False


@contextmanager
def _profiling(job: Job) -> Iterator[Callable[[int], None]]:
    """Yield a function to call before each step; it starts and stops the trace."""
    if job.config.profile is None:
        yield lambda step: None
        return
    start, stop = parse_profile(job.config.profile, steps=job.config.steps)
    running = False

    def at(step: int) -> None:
        nonlocal running
        if step == start:
            jax.profiler.start_trace(str(job.directory / "profile"))
            running = True
        elif running and step == stop:
            jax.profiler.stop_trace()
            running = False

    try:
        yield at
    finally:
        if running:
            jax.profiler.stop_trace()
