"""Log a run's readings to a file, and print their alarms.

    RUN/stability.jsonl     {"step": 20, "mean_log_z": 5.5, "attention_logits": [..],
                             "gradient_rms": {"layers/mlp/up/a": [..], ..}, ..}

The file does not contain alarms: they are computed from the readings and the optimiser.
"""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.disk.chain import DamagedLines
from lostjax.disk.lines import LinesFile, read_lines
from lostjax.steps.readings import Readings
from lostjax.train.config.schema import OptimConfig
from lostjax.train.log.alarms import find_alarms
from lostjax.train.log.json_lines import (
    READING,
    STABILITY_FILE,
    describe_gap,
    read_metrics,
    read_whole,
)


class LoggedReadings(NamedTuple):
    """A line of the file, and its alarms."""

    step: int
    readings: Readings
    """NumPy arrays; values that were not finite are NaN."""
    alarms: Mapping[str, str]
    """Lines of text by kind, from `find_alarms`."""


class StabilityLog:
    """Writes `stability.jsonl`, one line per reading, and prints alarms.

    An alarm is printed when it begins, and not again while it lasts.

    Args:
      run_dir: the run's directory, which exists.
      resume_step: lines of later steps are removed.
      optim: the optimiser's epsilon and clipping.
      say: prints a line on the terminal.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        resume_step: int,
        optim: OptimConfig,
        say: Callable[[str], None],
    ) -> None:
        self._file = LinesFile(run_dir / STABILITY_FILE, resume_step=resume_step)
        read = (x["step"] for x in read_whole(read_metrics, run_dir) if READING in x)
        if gap := describe_gap(self._file.last["step"], int(max(read, default=0))):
            print(f"{self._file.path}: {gap}", file=sys.stderr)
        self._optim, self._say = optim, say
        self._ringing: set[str] = set()

    def write(
        self, step: int, readings: Readings, *, gradient_norm: float | int
    ) -> None:
        """Append the readings of a step; values that are not finite become null."""
        line = {"step": step} | {
            name: _as_json(value) for name, value in readings._asdict().items()
        }
        self._file.append(line)
        alarms = find_alarms(readings, optim=self._optim, gradient_norm=gradient_norm)
        for kind in alarms.keys() - self._ringing:
            self._say(f"step {step}  alarm: {alarms[kind]}")
        self._ringing = set(alarms)

    def go_back(self, step: int) -> None:
        """Remove the readings of later steps, which the run repeats."""
        self._file.go_back(step)
        self._ringing = set()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def read_stability(
    run_dir: str | Path,
    *,
    optim: OptimConfig,
    gradient_norms: Mapping[int, float | int],
) -> list[LoggedReadings]:
    """Read the readings of a run, in the order of its steps.

    Args:
      run_dir: the run's directory; without the file there are no readings.
      optim: the run's optimiser.
      gradient_norms: global gradient norms by step; a step without one has no alarms
        of clipped gradients.

    Returns:
      The readings with their alarms. What is damaged is named on standard error, and
      left out.
    """
    path = Path(run_dir) / STABILITY_FILE
    try:
        lines = read_lines(path)
    except DamagedLines as error:
        print(error, file=sys.stderr)
        lines = error.whole
    logged = []
    for line in lines:
        step = line.pop("step")
        try:
            values = {name: _as_array(value) for name, value in line.items()}
            readings = Readings(**values)
            norm = gradient_norms.get(step, math.nan)
            alarms = find_alarms(readings, optim=optim, gradient_norm=norm)
        except (TypeError, ValueError, AttributeError, LookupError):
            # Of a line without a hash: what has one is as it was written.
            print(f"{path}: its line of step {step} is damaged", file=sys.stderr)
            continue
        logged.append(LoggedReadings(step, readings, alarms))
    return logged


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_json(part) for name, part in value.items()}
    array = np.asarray(value, np.float64)
    if array.ndim:
        return [_as_json(part) for part in array]
    return float(array) if math.isfinite(array) else None


def _as_array(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_array(part) for name, part in value.items()}
    return np.asarray(value, np.float64)  # null becomes NaN
