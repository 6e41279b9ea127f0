"""Report why the guard stopped a run: on the terminal and in RUN/stopped.json."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lostjax.disk.files import replace_file
from lostjax.steps.state import TrainState
from lostjax.train.build.job import Job
from lostjax.train.devices.hosts import is_first_host
from lostjax.train.watch.diagnosis import (
    Diagnosis,
    describe_spike,
    diagnose,
    list_examples,
)
from lostjax.train.watch.verdict import Spike, Streak

STOPPED_FILE = "stopped.json"
"""Name of the report in the run's directory."""


EXIT_CODE = 3
"""Exit code of a run that the guard stopped; a restart would stop again."""


_EXAMPLES_SHOWN = 16


def report_streak(job: Job, state: TrainState, streak: Streak) -> int:
    """Diagnose a streak, print and write the report, and return the exit code."""
    return _report(job, diagnose(job, state, streak))


def report_spike(job: Job, spike: Spike, *, offset: int, rollbacks: int) -> int:
    """Report a spike after which the run does not roll back; return the exit code.

    Args:
      job: the run.
      spike: the last spike.
      offset: number of batches that were passed over before its step.
      rollbacks: number of earlier rollbacks to the checkpoint before it.
    """
    found = Diagnosis(
        streak=Streak(spike.step, 1),
        loss=spike.loss,
        culprit=describe_spike(job, spike.loss, f"up to {spike.limit:.4g}"),
        bad_outputs=(),
        bad_gradients=(),
        examples=list_examples(job, spike.step - 1 + offset),
        rollbacks=rollbacks,
    )
    return _report(job, found)


def _report(job: Job, found: Diagnosis) -> int:
    if not is_first_host():
        return EXIT_CODE
    path = job.directory / STOPPED_FILE
    print(describe(found, path=path), file=sys.stderr)
    try:
        replace_file(path, (json.dumps(_as_json(found), indent=1) + "\n").encode())
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror}", file=sys.stderr)
    return EXIT_CODE


def describe(found: Diagnosis, *, path: Path) -> str:
    """Format a diagnosis as a few lines for the terminal."""
    streak = found.streak
    shown = found.examples[:_EXAMPLES_SHOWN]
    rows = ", ".join(f"{number} (epoch {epoch})" for number, epoch in shown)
    more = len(found.examples) - len(shown)
    rest = f" and {more} more" if more else ""
    bad = found.bad_gradients
    gradients = f"; gradients not finite: {len(bad)}, first {bad[0]}" if bad else ""
    why = (
        f"{streak.length} updates in a row were skipped, the first at step "
        f"{streak.first_step}"
    )
    kept = f"the parameters are those of step {streak.first_step - 1}; "
    if found.rollbacks:
        again = "once" if found.rollbacks == 1 else f"{found.rollbacks} times"
        why = f"the loss spiked again after rolling back {again} to one checkpoint"
        kept = ""
    return (
        f"stopped after step {streak.last_step}: {why}\n"
        f"  first bad value there: {found.culprit}{gradients}\n"
        f"  examples there: {rows}{rest}\n"
        f"  {kept}checkpoints are unchanged; details in {path}"
    )


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "first_step": found.streak.first_step,
        "last_step": found.streak.last_step,
        "skipped_in_a_row": found.streak.length,
        "rollbacks": found.rollbacks,
        "loss": found.loss if np.isfinite(found.loss) else None,
        "first_to_go_bad": found.culprit,
        "bad_outputs": list(found.bad_outputs),
        "bad_gradients": list(found.bad_gradients),
        "examples": [{"example": i, "epoch": e} for i, e in found.examples],
    }
