"""Where the numbers of a run go: JSON lines always, TensorBoard, and Weights & Biases.

    RUN/metrics.jsonl       one line a training step: {"step": 1, "loss": 8.3, ...}
    RUN/evaluations.jsonl   one line an evaluation: {"step": 200, "eval_loss": ...}
    RUN/tensorboard/        the same, as `train/loss` and `eval/loss`

`step` counts finished updates, so the first line is step 1 and a checkpoint at step S
has seen the lines 1..S. Opening with `resume_step=S` removes all later lines in one
rename, and a line that a crash cut short: a resumed run leaves the file that an
uninterrupted one leaves, but for `CLOCK_FIELDS`. Going back to a step within a run
cuts its later lines off.

Every line is valid JSON, which has no NaN and no infinity: both are written as null,
and `read_metrics` gives NaN for null. Every line is flushed when written: it survives
the program's death, though not a power cut. A full disk holds lines back, and does not
stop the run: see `lostjax.disk.appending`.
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
"""Names of values that depend on the clock: two equal runs differ in these alone."""

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


class JsonLines:
    """A sink that writes `metrics.jsonl` and `evaluations.jsonl`.

    Args:
        run_dir: The run's folder; made where missing.
        resume_step: Lines of later steps are removed; 0 for a new run.

    Raises:
        ValueError: If a file there has a line, other than a torn last one, that is not
            a JSON object with an integer `step`.
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
                f"values of step {step} must hold 'loss' or names that begin with "
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
    """Open every sink of a run.

    Args:
        run_dir: The run's folder; made where missing.
        resume_step: The step of the checkpoint that the run goes on from; 0 for a new
            run. Lines of later steps are removed.
        wandb_project: Also write to this Weights & Biases project.

    Returns:
        One sink that writes to all of them. Only one process of a run opens it.

    Raises:
        ValueError: If `resume_step` is negative, wandb is wanted but not installed, or
            a file of metrics is damaged.

    Example:
        sink = open_sinks("runs/a", resume_step=0)
        sink.write(1, {"loss": 8.3, "learning_rate": 1e-5})
    """
    if resume_step < 0:
        raise ValueError(f"resume_step must be 0 or more, got {resume_step}")
    sinks: list[Sink] = []
    if wandb_project is not None:  # first: it may refuse, before anything is written
        sinks.append(
            WeightsAndBiases(run_dir, resume_step=resume_step, project=wandb_project)
        )
    sinks.append(JsonLines(run_dir, resume_step=resume_step))
    sinks.append(TensorBoard(run_dir, resume_step=resume_step))
    return FanOut(sinks)


def read_metrics(run_dir: str | Path) -> list[dict[str, float | int]]:
    """Read the training steps of a run, also while it writes them.

    Returns:
        One dictionary a line of `metrics.jsonl`, with `step` and `loss`; null is NaN.
        A torn last line is left out; no file gives no lines.

    Raises:
        FileNotFoundError: If `run_dir` is not a folder.
        ValueError: If another line is not a JSON object with an integer `step`.
    """
    return _read(run_dir, METRICS_FILE)


def read_evaluations(run_dir: str | Path) -> list[dict[str, float | int]]:
    """Read the evaluations of a run, as `read_metrics` reads its steps."""
    return _read(run_dir, EVALUATIONS_FILE)


def _read(run_dir: str | Path, name: str) -> list[dict[str, float | int]]:
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"run_dir {str(run_dir)!r} is not a folder")
    return [
        {k: math.nan if v is None else v for k, v in line.items()}
        for line in read_lines(Path(run_dir) / name)
    ]


def _json_number(value: SupportsFloat) -> float | int | None:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
