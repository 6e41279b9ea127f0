"""Where the numbers of a run go: JSON lines always, TensorBoard, and Weights & Biases.

A sink takes `write(step, values)`, `go_back(step)` and `close()`. There are two kinds
of values, told apart by their names: those of a training step hold `loss`, and those of
an evaluation have names that all begin with `eval_` (but for clock fields).

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
stop the run: see `lostjax.train.appending`.
"""

import importlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from lostjax.train.appending import AppendingFile
from lostjax.train.files import replace_file
from lostjax.train.tracking import WeightsAndBiases

CLOCK_FIELDS = frozenset(
    {"time", "step_seconds", "tokens_per_second", "mfu", "eval_seconds"}
)
"""Names of values that depend on the clock: two equal runs differ in these alone."""

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

Values = Mapping[str, SupportsFloat]
"""Numbers by name: Python's, numpy's or JAX's scalars."""


@runtime_checkable
class Sink(Protocol):
    """Takes the numbers of a run, in the order of its steps."""

    def write(self, step: int, values: Values) -> None:
        """Take the values of one training step or of one evaluation."""

    def go_back(self, step: int) -> None:
        """Forget what was taken of later steps: the run does them again."""

    def close(self) -> None:
        """Write out what is held back and let go of files; twice is harmless."""


def is_evaluation(values: Values) -> bool:
    """Say whether `values` are an evaluation's: one name begins with `eval_`."""
    return any(name.startswith("eval_") for name in values)


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


class TensorBoard:
    """A sink that writes TensorBoard event files, through tensorboardX.

    On resume TensorBoard is told to forget the later steps. Numbers that are not finite
    are left out: its curves show a gap. Events are written as they come: tensorboardX's
    thread for it dies of a full disk or of a clock that was set back a month, and then
    a run would wait for room in its queue for ever.
    """

    def __init__(self, run_dir: str | Path, *, resume_step: int) -> None:
        self._folder = Path(run_dir) / TENSORBOARD_FOLDER
        self._writer = self._open(resume_step, is_new=resume_step == 0)

    def _open(self, step: int, *, is_new: bool) -> Any:
        # Imported late: it loads torch wherever torch is installed.
        tensorboard = importlib.import_module("tensorboardX")
        tensorboard.record_writer.register_writer_factory("append", _AppendingFiles())
        self._folder.mkdir(parents=True, exist_ok=True)
        writer = tensorboard.event_file_writer.EventsWriter(
            f"append:{self._folder / 'events'}",
            # Files are named by the second: a quick resume must not share one.
            filename_suffix=f".from-{step}",
        )
        if not is_new:
            protocol = importlib.import_module("tensorboardX.proto.event_pb2")
            start = protocol.SessionLog(status=protocol.SessionLog.START)
            self._put(writer, step + 1, session_log=start)
        return writer

    def _put(self, writer: Any, step: int, **content: Any) -> None:
        protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        event = protocol.Event(step=step, wall_time=time.time(), **content)
        writer.write_event(event)

    def go_back(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(step, is_new=False)

    def write(self, step: int, values: Values) -> None:
        room = "eval" if is_evaluation(values) else "train"
        scalars = [
            {"tag": f"{room}/{name.removeprefix('eval_')}", "simple_value": number}
            for name, value in values.items()
            if math.isfinite(number := float(value))
        ]
        self._put(self._writer, step, summary={"value": scalars})

    def close(self) -> None:
        self._writer.close()


class _AppendingFiles:
    """Opens TensorBoard's files: see tensorboardX's `register_writer_factory`."""

    def open(self, path: str) -> AppendingFile:
        return AppendingFile(Path(path.removeprefix("append:")))


class FanOut:
    """A sink that hands everything to each of `sinks`, in order."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks: Sequence[Sink] = tuple(sinks)

    def write(self, step: int, values: Values) -> None:
        for sink in self._sinks:
            sink.write(step, values)

    def go_back(self, step: int) -> None:
        for sink in self._sinks:
            sink.go_back(step)

    def close(self) -> None:
        errors = []
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:  # the others must be closed all the same
                errors.append(error)
        if errors:
            raise errors[0]


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


def reopen_lines(path: Path, resume_step: int) -> AppendingFile:
    """Open a file of JSON lines for appending, as a run that goes on wants it.

    Args:
        path: The file; made where missing.
        resume_step: Lines of later steps are removed, and a torn one.

    Raises:
        ValueError: If another line is not a JSON object with an integer `step`.
    """
    there = path.read_bytes() if path.exists() else b""
    kept = _lines_until(resume_step, there, path)
    if len(kept) != len(there):
        replace_file(path, kept)
    return AppendingFile(path)


def cut_lines(file: AppendingFile, step: int) -> None:
    """Cut the lines of later steps off a file that a run appends to.

    Raises:
        OSError: If it cannot be read or cut.
    """
    file.cut(len(_lines_until(step, file.read(), file.path)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines as it is, with null; no file gives no lines.

    Raises:
        ValueError: If a line, other than a torn last one, is not a JSON object with an
            integer `step`.
    """
    if not path.exists():
        return []
    return [line for _, line in _whole_lines(path.read_bytes(), path)]


def _lines_until(step: int, data: bytes, path: Path) -> bytes:
    return b"".join(r for r, line in _whole_lines(data, path) if line["step"] <= step)


def _read(run_dir: str | Path, name: str) -> list[dict[str, float | int]]:
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"run_dir {str(run_dir)!r} is not a folder")
    return [
        {k: math.nan if v is None else v for k, v in line.items()}
        for line in read_lines(Path(run_dir) / name)
    ]


def _whole_lines(data: bytes, path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Give each line as bytes and as parsed, without a last one that is torn."""
    lines = data.splitlines(keepends=True)
    parsed = []
    for number, raw in enumerate(lines, 1):
        line = _parse(raw)
        if line is not None:
            parsed.append((raw, line))
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number}: not a JSON object with an integer 'step'; "
                "remove the line"
            )
    return parsed


def _parse(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):  # torn, even where what there is parses
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # 100,000 brackets are no JSON either
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None


def _json_number(value: SupportsFloat) -> float | int | None:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
