"""Write metrics to Weights & Biases, which is optional and never blocks a run."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat


class WeightsAndBiases:
    """A sink that writes to the Weights & Biases server or, offline, to RUN/wandb.

    Without a key (`wandb login`, WANDB_API_KEY) or a network the run is written to the
    disk, and `wandb sync` uploads it later; if WANDB_MODE is set, it decides instead. A
    run that is resumed or rolled back becomes a new run in the same group, named after
    its directory, because the server accepts no step twice.

    Raises:
      ValueError: if wandb is not installed.
    """

    def __init__(self, run_dir: str | Path, *, resume_step: int, project: str) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(
                f"wandb project {project!r} needs wandb, which is not installed: "
                "pip install 'lostjax[wandb]', or omit the project"
            ) from error
        run_dir = Path(run_dir).resolve()
        self._wandb = wandb
        self._options: dict[str, Any] = {
            "project": project,
            "dir": str(run_dir),
            "group": run_dir.name,
            "name": run_dir.name + (f" from step {resume_step}" if resume_step else ""),
            "settings": wandb.Settings(console="off", silent=True, init_timeout=20),
        }
        self._run = self._start()

    def _start(self) -> Any:
        run = _start_wandb(self._wandb, self._options)
        run.define_metric("*", step_metric="step")
        return run

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        self._run.log({"step": step} | {k: float(v) for k, v in values.items()})

    def go_back(self, step: int) -> None:
        self._run.finish()
        self._options["name"] = f"{self._options['group']} from step {step}"
        self._run = self._start()

    def close(self) -> None:
        self._run.finish()


def _start_wandb(wandb: Any, options: dict[str, Any]) -> Any:
    """Start a run online if possible, otherwise offline, without asking for input."""
    if "WANDB_MODE" in os.environ:
        return wandb.init(**options)
    if not wandb.login(prompt=False, verify=False):
        return wandb.init(mode="offline", **options)
    try:
        return wandb.init(**options)
    except wandb.Error:  # no network
        return wandb.init(mode="offline", **options)
