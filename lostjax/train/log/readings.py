"""Log a run's readings to a file, and print their alarms.

    RUN/stability.jsonl     {"step": 20, "mean_log_z": 5.5, "attention_logits": [..],
                             "gradient_rms": {"layers/mlp/up/a": [..], ..}, ..}

The file does not contain alarms: they are computed from the readings and the optimiser.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.disk.lines import cut_lines, read_lines, reopen_lines
from lostjax.steps.readings import Readings
from lostjax.train.config.schema import OptimConfig
from lostjax.train.log.alarms import find_alarms

STABILITY_FILE = "stability.jsonl"


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
        self._file = reopen_lines(run_dir / STABILITY_FILE, resume_step)
        self._optim, self._say = optim, say
        self._ringing: set[str] = set()

    def write(
        self, step: int, readings: Readings, *, gradient_norm: float | int
    ) -> None:
        """Append the readings of a step; values that are not finite become null."""
        line = {"step": step} | {
            name: _as_json(value) for name, value in readings._asdict().items()
        }
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        alarms = find_alarms(readings, optim=self._optim, gradient_norm=gradient_norm)
        for kind in alarms.keys() - self._ringing:
            self._say(f"step {step}  alarm: {alarms[kind]}")
        self._ringing = set(alarms)

    def go_back(self, step: int) -> None:
        """Remove the readings of later steps, which the run repeats."""
        cut_lines(self._file, step)
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
      gradient_norms: global gradient norms by step; they must include every step with
        a reading.

    Returns:
      The readings with their alarms.

    Raises:
      ValueError: if a line is damaged.
    """
    logged = []
    for line in read_lines(Path(run_dir) / STABILITY_FILE):
        step = line.pop("step")
        readings = Readings(**{name: _as_array(value) for name, value in line.items()})
        alarms = find_alarms(readings, optim=optim, gradient_norm=gradient_norms[step])
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
