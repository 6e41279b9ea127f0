"""Losses on other texts, forecast from smaller models.

No table here holds scores of downstream tasks. The nearest that one holds are the
losses of 104 finished models on eight texts, among them code and German with English:
<https://github.com/mlfoundations/scaling>, of Gadre et al., "Language models scale
reliably with over-training and on downstream tasks", 2024, arXiv:2403.08540. What
Choshen et al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024,
arXiv:2410.11840, say of a law of one loss is tried on each text. Nothing is trained.

A seed is a target, the same for every method: on C4, RedPajama and RefinedWeb each, two
models of 1.4 billion parameters, and one of 6.9 billion, from all smaller models. The
error is the mean over the seven texts that are not C4's validation set.

    law of the text     fitted to the smaller models' losses on that text
    through C4          the law of C4's losses, then a line from those to the text's
    C4 known            that line at the target's own loss on C4
    same as C4          the law of C4's losses, taken as the text's (naive)
    best loss           the least that a smaller model reached on the text (naive)
    another's line      the control: through C4, by the line of the next text

Nothing is tuned: the fit is the library's default, without a prior.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling import fit_loss_law, make_points, predict_loss
from lostjax.errors import ConfigError
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.loss_curves import read_table
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE

CORPORA = ("C4", "RedPajama", "RefinedWeb")
KNOWN = "c4"
TEXTS = ("code", "german", "open_lm", "paloma c4", "ptb", "redpajama", "refinedweb")
SMALLEST_TARGET = 1e9
ERROR, CODE, GERMAN = "error, %", "error on code, %", "error on German, %"


class Models(NamedTuple):
    """Finished models of one corpus, and their losses on every text."""

    n_params: np.ndarray
    tokens: np.ndarray
    losses: Mapping[str, np.ndarray]

    def take(self, kept: np.ndarray) -> "Models":
        """Select models."""
        losses = {text: each[kept] for text, each in self.losses.items()}
        return Models(self.n_params[kept], self.tokens[kept], losses)


class Target(NamedTuple):
    """A model to forecast, and all that are smaller."""

    model: Models
    smaller: Models


@dataclasses.dataclass(frozen=True)
class Study:
    """A method."""

    method: str = "law of the text"


@cache
def list_targets() -> tuple[Target, ...]:
    """List the targets: three of each corpus, by size and tokens."""
    return tuple(
        Target(models.take(place[None]), models.take(models.n_params < size))
        for models in map(_read_models, CORPORA)
        for place, size in zip(
            np.lexsort([models.tokens, models.n_params]),
            np.sort(models.n_params),
            strict=True,
        )
        if size > SMALLEST_TARGET
    )


def forecast_law(target: Target, text: str) -> float:
    """Forecast by the law of a text."""
    smaller, model = target.smaller, target.model
    points = make_points(
        n_params=smaller.n_params,
        tokens=smaller.tokens,
        losses=smaller.losses[text],
        runs=range(len(smaller.tokens)),
    )
    law = fit_loss_law(points).law
    said = predict_loss(law, n_params=model.n_params, tokens=model.tokens)
    return float(said[0])


def follow_known(target: Target, text: str, *, known: float) -> float:
    """Forecast by a line from the losses on C4, at one of them."""
    losses = target.smaller.losses
    return float(np.polyval(np.polyfit(losses[KNOWN], losses[text], 1), known))


def _through_known(target: Target, text: str) -> float:
    return follow_known(target, text, known=forecast_law(target, KNOWN))


def _other_line(target: Target, text: str) -> float:
    return _through_known(target, TEXTS[(TEXTS.index(text) + 1) % len(TEXTS)])


LAW, THROUGH = "law of the text", "through C4"
METHODS: Mapping[str, Callable[[Target, str], float]] = {
    LAW: forecast_law,
    THROUGH: _through_known,
    "C4 known": lambda target, text: follow_known(
        target, text, known=float(target.model.losses[KNOWN][0])
    ),
    "same as C4": lambda target, text: forecast_law(target, KNOWN),
    "best loss": lambda target, text: float(target.smaller.losses[text].min()),
    "another's line": _other_line,
}


def measure(config: Study, rate: float | None, seed: int) -> dict[str, float]:
    """Forecast a target's losses on every text by a method."""
    del rate
    targets = list_targets()
    if seed >= len(targets):
        raise ConfigError(f"--seeds: there are {len(targets)} targets")
    target = targets[seed]
    losses = target.model.losses
    errors = {
        text: 100
        * abs(METHODS[config.method](target, text) / float(losses[text][0]) - 1)
        for text in TEXTS
    }
    mean = float(np.mean(list(errors.values())))
    return {ERROR: mean, CODE: errors["code"], GERMAN: errors["german"]}


def _read_models(corpus: str) -> Models:
    rows = [
        row for row in read_table("evaluation_losses.csv.gz") if row["corpus"] == corpus
    ]
    first = {row["run"]: row for row in rows}
    losses = {(row["run"], row["text"]): float(row["loss"]) for row in rows}
    return Models(
        n_params=np.array([float(row["n_params"]) for row in first.values()]),
        tokens=np.array([float(row["tokens"]) for row in first.values()]),
        losses={
            text: np.array([losses[run, text] for run in first])
            for text in (KNOWN, *TEXTS)
        },
    )


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    return {name: dataclasses.replace(scale.config, method=name) for name in METHODS}


COMPARISONS = (
    Comparison(LAW, "best loss", "the text's law errs less than the best loss"),
    Comparison(THROUGH, "best loss", "through C4 errs less than the best loss"),
    Comparison(THROUGH, LAW, "through C4 errs less than the text's law"),
    Comparison("C4 known", THROUGH, "to know the loss on C4 lessens the error"),
    Comparison(LAW, 4.0, "the error of the text's law is less than 4 %"),
    Comparison(THROUGH, 4.0, "the error through C4 is less than 4 %"),
    Comparison(THROUGH, "same as C4", "a line errs less than C4's law alone"),
    Comparison(THROUGH, "another's line", "the text's line errs less than another's"),
    Comparison(LAW, "best loss", "on code the law errs less than the best loss", CODE),
    Comparison(THROUGH, LAW, "on code through C4 errs less than the law", CODE),
    Comparison(
        LAW, "best loss", "on German the law errs less than the best loss", GERMAN
    ),
    Comparison(THROUGH, LAW, "on German through C4 errs less than the law", GERMAN),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    del scale
    return (
        "Every seed is a target: two models of 1.4B parameters and one of 6.9B on each "
        "of C4, RedPajama and RefinedWeb, from all smaller models on the same corpus. "
        "Errors are relative to the loss; the first is the mean over seven texts. "
        "Nothing is trained or tuned; the losses are public."
    )


EXPERIMENT = Experiment(
    paper="A Hitchhiker's Guide (arXiv:2410.11840), losses on other texts",
    scales={
        "smoke": Scale(Study(), methods=(LAW, "best loss")),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(ERROR, CODE, GERMAN),
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    setting=describe,
    interval=PAIRED,
    seeds=9,
)
