"""Laws of loss on the curves of OPT and of models that repeat their data.

Choshen et al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024,
arXiv:2410.11840: a law is better fitted to the checkpoints of smaller models than to
their final losses; the first 10 billion tokens harm; one run suffices with constants of
another family; several small models are better than one large; targets of similar size
are easier; 4 % is the best error typically. Nothing is trained: the curves are the
paper's own collection. A seed is a target, the same for every method: OPT with 13, 30
and 175 billion parameters from the smaller ones, and models of 8.7 billion on C4 and
on OSCAR from those of 2.8 and 4.2, with 1, 2, 3, 4, 5, 7, 14 and 44 epochs.

    checkpoints        after 10 billion tokens, 20 a run, evenly in their logarithm
    no cut             the same from the first checkpoint on
    final losses       the last checkpoint of each run
    last checkpoints   those after 70 % of a run
    a third            those up to a third of a run
    without nearest    no run of the largest smaller model
    one run            that run alone; A and alpha of another family
    one small run      the smallest model's run, A and alpha of another family
    repeated tokens    worth fitted to smaller models with any number of epochs
    authors' fit       five constants by curve_fit from their start; no prior
    independent        as checkpoints; its interval as if they were independent
    sizes swapped      the control: the smallest run has the largest's size, and so on
    best loss          the least that a smaller model reached

Two smaller sizes determine no law: all fits except for the authors' and those of one
run have a prior, whose law is fitted to points of Chinchilla's figure (the "other
family"). The prior's deviations and the intervals' settings are the library's defaults.
A pilot had forecast 15 of the 19 targets; after it only the thinning was changed, from
40 checkpoints a run to 20, for speed. Nothing is tuned. Errors are of the target's
checkpoints after 70 % of its training.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from lostjax.analysis.scaling import absolute_relative_error, split_target
from lostjax.errors import ConfigError
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.loss_curves import Target, list_targets
from lostjax.repro.problems.loss_forecasts import (
    LAST,
    Prediction,
    Study,
    assume_independent,
    drop_nearest,
    fit_as_authors,
    forecast,
    keep_cut,
    keep_share,
    repeat,
    swap_sizes,
    take_best,
    transfer,
)
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE

ERROR, OUTSIDE, WIDTH = (
    "error, %",
    "outside the 90 % interval, %",
    "width of the interval, %",
)

OURS = "checkpoints"

METHODS: Mapping[str, Callable[[Study, Target], Prediction]] = {
    OURS: partial(forecast, keep=keep_cut),
    "no cut": partial(forecast, keep=lambda points: points),
    "final losses": partial(forecast, keep=partial(keep_share, low=1.0)),
    "last checkpoints": partial(forecast, keep=partial(keep_share, low=LAST)),
    "a third": partial(
        forecast, keep=lambda points: keep_cut(keep_share(points, high=1 / 3))
    ),
    "without nearest": partial(forecast, keep=drop_nearest),
    "one run": partial(transfer, size=-1),
    "one small run": partial(transfer, size=0),
    "repeated tokens": repeat,
    "authors' fit": fit_as_authors,
    "independent": assume_independent,
    "sizes swapped": partial(forecast, keep=swap_sizes),
    "best loss": take_best,
}


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    return {name: dataclasses.replace(scale.config, method=name) for name in METHODS}


def measure(config: Study, rate: float | None, seed: int) -> dict[str, float]:
    """Forecast a target by a method."""
    targets = list_targets()
    if seed >= len(targets):
        raise ConfigError(f"--seeds: there are {len(targets)} targets")
    target = targets[seed]
    _, last = split_target(target.points, test_from=LAST)
    found = METHODS[config.method](config, target)
    outside = (last.losses < found.low) | (last.losses > found.high)
    return {
        ERROR: 100 * absolute_relative_error(found.loss, last.losses),
        OUTSIDE: 100 * float(np.mean(outside)),
        WIDTH: 100 * float(np.mean((found.high - found.low) / found.loss)),
    }


COMPARISONS = (
    Comparison(OURS, "final losses", "checkpoints err less than final losses"),
    Comparison(OURS, "no cut", "without the first 10 billion tokens errors are less"),
    Comparison(OURS, "last checkpoints", "checkpoints err less than last checkpoints"),
    Comparison(OURS, "best loss", "checkpoints err less than the best loss"),
    Comparison("one run", "best loss", "one run errs less than the best loss"),
    Comparison("a third", "best loss", "a third of training errs less than best loss"),
    Comparison(OURS, "one run", "several smaller models err less than one large run"),
    Comparison(OURS, "without nearest", "errors are less with the nearest size"),
    Comparison("one run", "one small run", "one run of nearer size errs less"),
    Comparison(OURS, 4.0, "the error is less than 4 %"),
    Comparison(OURS, "authors' fit", "a prior errs less than the authors' start"),
    Comparison("repeated tokens", OURS, "counting repeated tokens less errs less"),
    Comparison(OURS, "sizes swapped", "errors are less than of swapped sizes"),
    Comparison(OURS, 10.0, "our interval misses less than 10 %", OUTSIDE),
    Comparison("independent", 10.0, "that of independent points does, too", OUTSIDE),
    Comparison(OURS, "independent", "ours misses less than that one", OUTSIDE),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    return (
        "Every seed is a target: OPT 13B, 30B and 175B from the smaller models, and "
        "8.7B on C4 and OSCAR with 1 to 44 epochs from 2.8B and 4.2B. Errors are of "
        "the target's checkpoints after 70 % of its training, relative to the loss. "
        f"Intervals are of 90 %, from {scale.config.draws} draws. Nothing is trained "
        "or tuned; the curves are public."
    )


EXPERIMENT = Experiment(
    paper="A Hitchhiker's Guide to Scaling Law Estimation (arXiv:2410.11840)",
    scales={
        "smoke": Scale(
            Study(draws=20, per_run=6), methods=(OURS, "final losses", "best loss")
        ),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(ERROR, OUTSIDE, WIDTH),
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    setting=describe,
    interval=PAIRED,
    seeds=19,
)
