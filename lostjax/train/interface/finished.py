"""A run in its directory, from Python: model, numbers, text, figures.

Everything is read from the directory when it is asked for, so that a run that another
process trains, or that a crash ended, can be opened as well as a finished one.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lostjax import __version__
from lostjax.data import Tokenizer, load_saved_tokenizer
from lostjax.disk.manifest import MANIFEST
from lostjax.disk.seal import digest
from lostjax.errors import ConfigError
from lostjax.nn import Transformer
from lostjax.steps.score import ScoreStep, make_score_step
from lostjax.train.build.restored import choose_step, read_variables
from lostjax.train.build.run import Run as Parts
from lostjax.train.build.run import build_run
from lostjax.train.config.stored import load_run_config
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.platform import settle_platform
from lostjax.train.evaluate import Scores, score
from lostjax.train.interface.mistakes import cut_traceback
from lostjax.train.interface.sampling import (
    continue_prompt,
    make_sampling,
    stream_prompt,
)
from lostjax.train.interface.texts import plan_text
from lostjax.train.keep.directory import REPORT, find_run
from lostjax.train.keep.layout import CHECKPOINTS
from lostjax.train.log.json_lines import read_evaluations, read_metrics, read_whole
from lostjax.typing import PyTree, Variables
from lostjax.view.notebook import frame_page, plot_curves

if TYPE_CHECKING:
    from lostjax.view.notebook import Figure


class Run:
    """A run that `run` trained or `load` opened.

    The model is restored from a checkpoint onto one device when it is first used. A
    notebook shows a finished run as its report, in a frame of its own.

    Attributes:
      directory: the run's directory, as it was named.
      config: the configuration; `lostjax.train.run(run.config)` resumes the run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        step: int | None = None,
        average: bool = False,
        dtype: str = "float32",
    ) -> None:
        """Open a run; see `load`."""
        self.directory = directory
        config = load_run_config(directory)
        if average and not config.objective.trajectory.keeps_average:
            raise ConfigError(
                f"--average: {directory} keeps no moving average of its parameters; "
                "only runs with --objective.trajectory=mesa do"
            )
        self.config = dataclasses.replace(config, run_dir=str(directory))
        self._asked_step, self._average, self._dtype = step, average, dtype
        self._steps: dict[int, ScoreStep] = {}

    @cached_property
    def step(self) -> int:
        """Step of the checkpoint that the model is read from."""
        return choose_step(self.directory, step=self._asked_step)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this model from all others; programs keep results under it."""
        manifest = self.directory / CHECKPOINTS / str(self.step) / MANIFEST
        return {
            "run": str(self.directory.resolve()),
            "step": self.step,
            "checkpoint": digest(manifest.read_bytes()) if manifest.exists() else "",
            "average": self._average,
            "lostjax": __version__,
        }

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the run: `encode_batch(texts)` and `decode(ids)`."""
        return load_saved_tokenizer(self.directory)

    @cached_property
    def _parts(self) -> Parts:
        settle_platform()
        return build_run(
            self.config,
            mesh=make_mesh("data:1"),
            vocab_size=self.tokenizer.vocab_size,
        )

    @property
    def model(self) -> Transformer:
        """The Flax module: `model.apply(variables, tokens_BT)` returns logits_BTV."""
        return self._parts.model

    @cached_property
    def variables(self) -> Variables:
        """The model's variables: `params`, and LOST's `channels`."""
        return read_variables(
            self.directory,
            self._parts,
            step=self.step,
            average=self._average,
            dtype=self._dtype,
        )

    @property
    def params(self) -> PyTree:
        """The trained parameters, a tree of arrays."""
        return self.variables["params"]

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Numbers of the training steps by name, each (steps,); `step` counts from 1.

        A step without a number has NaN. `pandas.DataFrame(run.metrics)` is a table.
        """
        return _as_columns(read_whole(read_metrics, self.directory))

    @property
    def evaluations(self) -> dict[str, np.ndarray]:
        """Numbers of the held-out evaluations by name, each (evaluations,)."""
        return _as_columns(read_whole(read_evaluations, self.directory))

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done and the report is written."""
        return (self.directory / REPORT).is_file()

    @cut_traceback
    def generate(
        self,
        prompt: str,
        *,
        tokens: int = 100,
        temperature: float | int = 0.8,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int = 0,
    ) -> str:
        """Continue a prompt, as `python -m lostjax.generate` does.

        Args:
          prompt: the text to continue.
          tokens: number of tokens to generate, 1 or more.
          temperature: divides the logits, 0 or more; 0 takes the most likely token.
          top_k: sample among this number of most likely tokens.
          top_p: sample among the most likely tokens that together have this
            probability, in (0, 1].
          seed: seed of the sampling.

        Returns:
          The continuation, without the prompt, up to the end of the document if the
          model generates one.

        Raises:
          ConfigError: if there is no checkpoint, or a value is wrong.
          DataError: if the run's tokenizer cannot be read.
        """
        sampling = make_sampling(tokens, temperature, top_k, top_p, seed)
        return continue_prompt(
            prompt, sampling, tokenizer=self.tokenizer, read_model=self._read_model
        )

    @cut_traceback
    def stream(
        self,
        prompt: str,
        *,
        tokens: int = 100,
        temperature: float | int = 0.8,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Continue a prompt piece by piece, as the tokens are drawn; see `generate`.

        Returns:
          An iterator over pieces of text, which are the continuation together.

        Example:
          for piece in run.stream("Fellow citizens,"):
              print(piece, end="", flush=True)
        """
        sampling = make_sampling(tokens, temperature, top_k, top_p, seed)
        return stream_prompt(
            prompt, sampling, tokenizer=self.tokenizer, read_model=self._read_model
        )

    def _read_model(self) -> tuple[Transformer, Variables]:
        return self.model, self.variables

    @cut_traceback
    def evaluate(self, source: str | Path | None = None, *, top_k: int = 5) -> Scores:
        """Evaluate the model on every row of a text, as `python -m lostjax.evaluate`.

        Args:
          source: the text, as `--data.source` names it, or a path; the run's own
            held-out text if None.
          top_k: k of the top-k accuracy, from 1 to the size of the vocabulary.

        Returns:
          Loss (nats per token), perplexity, bits per byte, the number of tokens,
          accuracy, top-k accuracy and expected calibration error.

        Raises:
          ConfigError: if there is no checkpoint, or `top_k` is out of range.
          DataError: if the text cannot be used.
        """
        if not 1 <= top_k <= self.tokenizer.vocab_size:
            raise ConfigError(
                f"--top-k={top_k}: must lie in [1, {self.tokenizer.vocab_size}], the "
                "size of the vocabulary"
            )
        plan = plan_text(
            None if source is None else str(source),
            self.config,
            tokenizer=self.tokenizer,
        )
        if top_k not in self._steps:
            self._steps[top_k] = jax.jit(make_score_step(self.model, top_k=top_k))
        return score(
            self._steps[top_k],
            self.variables,
            plan=plan,
            top_k=top_k,
            mesh=self._parts.mesh,
        )

    def plot(self) -> "Figure":
        """Plot training and held-out loss by step.

        Returns:
          A matplotlib figure, which notebooks show; `figure.axes[0]` has the curves.
        """
        held = self.evaluations
        curves = {"training": (self.metrics, "loss"), "held-out": (held, "eval_loss")}
        return plot_curves(
            {
                label: (columns["step"], columns[name])
                for label, (columns, name) in curves.items()
                if name in columns
            },
            x_label="step",
            y_label="loss (nats per token)",
        )

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}: {self._progress()})"

    def _progress(self) -> str:
        steps = self.metrics.get("step", np.zeros(1, int))
        facts = f"step {steps[-1]} of {self.config.steps}"
        scores = self.evaluations.get("eval_bits_per_byte")
        if scores is not None:
            facts += f", held-out bits per byte {scores[-1]:.3f}"
        return facts if self.is_finished else f"{facts}, not finished"

    def _repr_html_(self) -> str | None:
        """Show the report; a run without one is shown as its `repr`."""
        try:
            page = (self.directory / REPORT).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        return frame_page(page, title=f"Report of {self.directory}")


@cut_traceback
def load(
    path: str | Path,
    *,
    step: int | None = None,
    average: bool = False,
    dtype: str = "float32",
) -> Run:
    """Open a run that was trained earlier, from Python or from a command line.

    Args:
      path: the run's directory; or `latest`, for the last one under `runs`.
      step: step of the checkpoint to read the model from; None for the newest.
      average: read the moving average of the parameters, which runs with
        --objective.trajectory=mesa keep.
      dtype: type to which the parameters are rounded: float32 or bfloat16.

    Returns:
      The run.

    Raises:
      ConfigError: if there is no run, its configuration is damaged, or `average` is set
        and it keeps none.

    Example:
      run = lostjax.train.load("latest")
      run.metrics["loss"][-1]
    """
    directory = find_run(str(path), with_checkpoint=True)
    return Run(directory, step=step, average=average, dtype=dtype)


def _as_columns(lines: Sequence[dict[str, float | int]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for line in lines for name in line)
    return {
        name: np.asarray([line.get(name, np.nan) for line in lines]) for name in names
    }
