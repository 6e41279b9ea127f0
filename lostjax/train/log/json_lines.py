"""Log a run's numbers as JSON lines, and to TensorBoard and Weights & Biases.

    RUN/metrics.jsonl       one line per training step: {"step": 1, "loss": 8.3, ...}
    RUN/evaluations.jsonl   one line per evaluation: {"step": 200, "eval_loss": ...}
    RUN/tensorboard/        the same values, as `train/loss` and `eval/loss`

`step` counts finished updates: the first line has step 1, and a checkpoint at step S
follows the lines 1..S. Opening with `resume_step=S` removes all later lines, and a line
that a crash cut short, in one rename: a resumed run leaves the same file as an
uninterrupted one, except for `CLOCK_FIELDS`. Rolling back to a step within a run cuts
off its later lines.

Every line is valid JSON. JSON has no NaN and no infinity: both are written as null, and
`read_metrics` returns NaN for null. Every line is flushed when it is written: it
survives the death of the process, but not a power cut. If the disk is full, lines are
held back and the run continues; see `lostjax.disk.lines`.

Every line ends with a hash of it and of all lines before it, see `lostjax.disk.chain`,
and a line of metrics says which evaluation was the last one before it (`evaluated`).
Readers return neither. What is damaged or missing at a resume is named on standard
error, and the run goes on without it.
"""

import math
import sys
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, SupportsFloat

from lostjax.disk.chain import DamagedLines
from lostjax.disk.lines import LinesFile, read_lines
from lostjax.train.log.sink import FanOut, Sink, Values, is_evaluation
from lostjax.train.log.tensorboard import TensorBoard
from lostjax.train.log.wandb import WeightsAndBiases

CLOCK_FIELDS = frozenset(
    {"time", "elapsed", "step_seconds", "tokens_per_second", "mfu", "eval_seconds"}
)
"""Names of values that depend on the clock: two equal runs differ in these only."""

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
STABILITY_FILE = "stability.jsonl"

EVALUATED = "evaluated"
"""In a line of metrics: step of the last evaluation before it, 0 if there is none. It
tells that lines are missing at the end of the file of evaluations."""

READING = "mean_log_z"
"""In a line of metrics if the step has a line in the file of readings."""


class JsonLines:
    """A sink that writes `metrics.jsonl` and `evaluations.jsonl`.

    Args:
      run_dir: the run's directory; made if it is missing.
      resume_step: lines of later steps are removed; 0 for a new run.

    """

    def __init__(self, run_dir: str | Path, *, resume_step: int) -> None:
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._steps = LinesFile(run_dir / METRICS_FILE, resume_step=resume_step)
        self._evaluations = LinesFile(
            run_dir / EVALUATIONS_FILE, resume_step=resume_step
        )
        for file, end in (
            (self._steps, resume_step),
            (self._evaluations, int(self._steps.last.get(EVALUATED, 0))),
        ):
            if gap := describe_gap(file.last["step"], end):
                print(f"{file.path}: {gap}", file=sys.stderr)

    def write(self, step: int, values: Values) -> None:
        evaluation = is_evaluation(values)
        if not evaluation and "loss" not in values:
            raise ValueError(
                f"values of step {step} must contain 'loss' or names that begin with "
                f"'eval_'; got {sorted(values)}"
            )
        line = {"step": step} | {k: _json_number(v) for k, v in values.items()}
        if evaluation:
            self._evaluations.append(line)
        else:
            self._steps.append(line | {EVALUATED: self._evaluations.last["step"]})

    def go_back(self, step: int) -> None:
        self._steps.go_back(step)
        self._evaluations.go_back(step)

    def close(self) -> None:
        self._steps.close()
        self._evaluations.close()


def describe_gap(last: int, end: int) -> str:
    """Name the lines that a file should have and has not, as a clause.

    Args:
      last: step of the last line that is there, 0 if there is none.
      end: step of the last line that was written.

    Returns:
      A clause; empty if no line is missing.
    """
    if last >= end:
        return ""
    return f"its lines after step {last}, up to step {end}, are missing"


def open_sinks(
    run_dir: str | Path, *, resume_step: int, wandb_project: str | None = None
) -> Sink:
    """Open every sink of a run; only one process of a run calls this.

    Args:
      run_dir: the run's directory; made if it is missing.
      resume_step: step of the checkpoint from which the run resumes, 0 for a new run;
        lines of later steps are removed.
      wandb_project: also write to this Weights & Biases project.

    Returns:
      One sink that writes to all of them.

    Raises:
      ValueError: if `resume_step` is negative, or a project is named but wandb is not
        installed.

    Example:
      sink = open_sinks("runs/a", resume_step=0)
      sink.write(1, {"loss": 8.3, "learning_rate": 1e-5})
    """
    if resume_step < 0:
        raise ValueError(f"resume_step must be 0 or more, got {resume_step}")
    sinks: list[Sink] = []
    if wandb_project is not None:  # first, because it may raise: nothing is written yet
        sinks.append(
            WeightsAndBiases(run_dir, resume_step=resume_step, project=wandb_project)
        )
    sinks.append(JsonLines(run_dir, resume_step=resume_step))
    sinks.append(TensorBoard(run_dir, resume_step=resume_step))
    return FanOut(sinks)


def read_metrics(run_dir: str | Path) -> list[dict[str, float | int]]:
    """Read the training steps of a run, which may be running.

    Returns:
      One dictionary per line of `metrics.jsonl`, with `step` and `loss`; null is read
      as NaN. A torn last line is omitted; without the file the list is empty.

    Raises:
      FileNotFoundError: if `run_dir` is not a directory.
      DamagedLines: if another line is not what was written; a ValueError, whose `whole`
        holds the other lines.
    """
    return _read(run_dir, METRICS_FILE)


def read_evaluations(run_dir: str | Path) -> list[dict[str, float | int]]:
    """Read the evaluations of a run; see `read_metrics`."""
    return _read(run_dir, EVALUATIONS_FILE)


def read_whole(
    read: Callable[[str | Path], list[dict[str, float | int]]], run_dir: Path
) -> list[dict[str, float | int]]:
    """Read with `read_metrics` or `read_evaluations`, and print what is damaged."""
    try:
        return read(run_dir)
    except DamagedLines as error:
        print(error, file=sys.stderr)
        return error.whole


def _read(run_dir: str | Path, name: str) -> list[dict[str, float | int]]:
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"run_dir {str(run_dir)!r} is not a directory")
    try:
        return list(map(_numbers, read_lines(Path(run_dir) / name)))
    except DamagedLines as error:
        error.whole = list(map(_numbers, error.whole))
        raise


def _numbers(line: Mapping[str, Any]) -> dict[str, float | int]:
    return {
        name: math.nan if value is None else value
        for name, value in line.items()
        if name != EVALUATED
    }


def _json_number(value: SupportsFloat) -> float | int | None:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
