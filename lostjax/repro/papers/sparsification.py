"""Abrupt sparsification: the step at which weights of a language model become zero.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805, count the weights of about
zero in checkpoints of BERT: their number jumps at some step, earlier if there is more
text. Their text has no threshold for "about zero"; ours is a tenth of the root mean
square of the layers' matrices before training, the same at every step.

    all text      each step has new text
    a tenth       the first tenth of it, ten times over
    shuffled      a control: all text, the tokens of a batch in a random order, so that
                  nothing but their frequencies can be learnt

Their runs have 50,000 steps, and start from small weights; ours have 600, with the
model and the rate of `lottery_masks`, and weight decay .1. Settled before anything was
measured: steps, threshold, checkpoints, decay, and half of the rise as what is abrupt.
"""

import dataclasses

import jax
import numpy as np

from lostjax import analysis
from lostjax.optim.splitting.matrices import match_matrices
from lostjax.prune.curve import find_matrices
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.masked_model import MaskedModel, Size, shuffle_tokens
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE
from lostjax.typing import PyTree

FEWER = "near-zero weights lost, points"
"""Their share in percent before training, minus that after."""
OUTSIDE = "rise outside its largest stretch, %"
STEP = "end of the largest rise, step"
BITS = "bits per byte"
CHECKPOINTS = 20
ALL, TENTH, SHUFFLED = "all text", "a tenth", "shuffled"


@dataclasses.dataclass(frozen=True)
class Watched:
    """A model, what it reads, and how its weights are counted."""

    reads: str = ALL
    size: Size = Size(steps=600)
    repeat: int = 10
    threshold: float = 0.1
    """Of the initial root mean square."""


def measure(config: Watched, rate: float | None, seed: int) -> dict[str, float]:
    """Train a seed's model and count its near-zero weights on the way."""
    del rate
    model = MaskedModel(config.size, seed)
    steps = config.size.steps
    batches = model.batches(steps, repeat=config.repeat if config.reads == TENTH else 1)
    if config.reads == SHUFFLED:
        batches = [
            shuffle_tokens(batch, number) for number, batch in enumerate(batches)
        ]
    tolerance = config.threshold * _rms(model.start)
    every = max(1, steps // CHECKPOINTS)
    shares = [_count(model.start, tolerance)]

    def watch(number: int, params: PyTree) -> None:
        if number % every == 0:
            shares.append(_count(params, tolerance))

    params = model.train(model.start, batches=batches, watch=watch)
    rises = np.maximum(np.diff(shares), 0)
    largest = int(np.argmax(rises))
    total = float(rises.sum())
    return {
        FEWER: shares[0] - shares[-1],
        OUTSIDE: 100 * (1 - float(rises[largest]) / total) if total else 100.0,
        STEP: float(every * (largest + 1)) if total else float(steps),
        BITS: model.bits(params),
    }


def _count(params: PyTree, tolerance: float) -> float:
    """Compute the share of near-zero weights of the layers' matrices, in percent."""
    found = analysis.near_zero_count(
        params, tolerance=tolerance, matrices=find_matrices
    )
    return 100 * found.near / found.total


def _rms(params: PyTree) -> float:
    labels = match_matrices(params, find_matrices)
    leaves = [
        np.ravel(leaf)
        for leaf, label in zip(jax.tree.leaves(params), labels, strict=True)
        if label is not None
    ]
    return float(np.sqrt(np.mean(np.concatenate(leaves).astype(np.float64) ** 2)))


def build_methods(scale: Scale[Watched]) -> dict[str, Watched]:
    """Build a row for each text."""
    return {
        reads: dataclasses.replace(scale.config, reads=reads)
        for reads in (ALL, TENTH, SHUFFLED)
    }


COMPARISONS = (
    Comparison(ALL, 0.0, "training makes more weights nearly zero", FEWER),
    Comparison(ALL, SHUFFLED, "it does so because there is text to learn", FEWER),
    Comparison(ALL, 50.0, "the rise is abrupt: half in a twentieth", OUTSIDE),
    Comparison(ALL, TENTH, "with more text the largest rise is earlier", STEP),
    Comparison(ALL, TENTH, "with more text more weights become nearly zero", FEWER),
)


def describe(scale: Scale[Watched]) -> str:
    """Describe the setting."""
    config, size = scale.config, scale.config.size
    return (
        f"Every model: {size.layers} dense layers of width {size.width}, text `sotu`, "
        f"tokenizer `{size.tokenizer}`, {size.steps:,} steps of {128 * size.batch:,} "
        f"tokens at a peak rate of {size.rate:g} with weight decay {size.decay:g}. "
        f"Nearly zero: below {config.threshold:g} of the root mean square of the "
        "matrices' weights before training. They are counted at the start and at "
        f"{CHECKPOINTS} checkpoints; of the rises between these the largest is taken. "
        f"A tenth: the first 1/{config.repeat} of the batches, {config.repeat} times."
    )


EXPERIMENT = Experiment(
    paper="The Emergence of Essential Sparsity (arXiv:2306.03805): sparsification",
    scales={
        "smoke": Scale(
            Watched(size=Size(steps=20, layers=1, tokens=1)), methods=(ALL, SHUFFLED)
        ),
        "small": Scale(Watched()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(FEWER, OUTSIDE, STEP, BITS),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    seeds=3,
)
