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
"""

import json
import math
from numbers import Integral
from pathlib import Path
from typing import SupportsFloat

from lostjax.disk.lines import cut_lines, read_lines, reopen_lines
from lostjax.train.log.sink import FanOut, Sink, Values, is_evaluation
from lostjax.train.log.tensorboard import TensorBoard
from lostjax.train.log.wandb import WeightsAndBiases

CLOCK_FIELDS = frozenset(
    {"time", "step_seconds", "tokens_per_second", "mfu", "eval_seconds"}
)
"""Names of values that depend on the clock: two equal runs differ in these only."""

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


class JsonLines:
    """A sink that writes `metrics.jsonl` and `evaluations.jsonl`.

    Args:
      run_dir: the run's directory; made if it is missing.
      resume_step: lines of later steps are removed; 0 for a new run.

    Raises:
      ValueError: if a line of a file, except for a torn last one, is not a JSON object
        with an integer `step`.
    """

    def __init__(self, run_dir: str | Path, *, resume_step: int) -> None:
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._steps = reopen_lines(run_dir / METRICS_FILE, resume_step)
        self._evaluations = reopen_lines(run_dir / EVALUATIONS_FILE, resume_step)

    def write(self, step: int, values: Values) -> None:
        evaluation = is_evaluation(values)
        if not evaluation and "loss" not in values:
            raise ValueError(
                f"values of step {step} must contain 'loss' or names that begin with "
                f"'eval_'; got {sorted(values)}"
            )
        line = {"step": step} | {k: _json_number(v) for k, v in values.items()}
        file = self._evaluations if evaluation else self._steps
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def go_back(self, step: int) -> None:
        cut_lines(self._steps, step)
        cut_lines(self._evaluations, step)

    def close(self) -> None:
        self._steps.close()
        self._evaluations.close()


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
      ValueError: if `resume_step` is negative, a project is named but wandb is not
        installed, or a file of metrics is damaged.

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
      ValueError: if another line is not a JSON object with an integer `step`.
    """
    return _read(run_dir, METRICS_FILE)


def read_evaluations(run_dir: str | Path) -> list[dict[str, float | int]]:
    """Read the evaluations of a run; see `read_metrics`."""
    return _read(run_dir, EVALUATIONS_FILE)


def _read(run_dir: str | Path, name: str) -> list[dict[str, float | int]]:
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"run_dir {str(run_dir)!r} is not a directory")
    return [
        {k: math.nan if v is None else v for k, v in line.items()}
        for line in read_lines(Path(run_dir) / name)
    ]


def _json_number(value: SupportsFloat) -> float | int | None:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
