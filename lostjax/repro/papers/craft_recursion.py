"""One recursion of CRAFT: what sub-concepts at an earlier layer explain of a concept.

Fel et al., "CRAFT: Concept Recursive Activation FacTorization for Explainability",
2022, arXiv:2211.10154, factorise the crops with most of a concept again at an earlier
layer; neither of the released packages does. The paper shows pictures and measures
nothing of it. Here the most important concept of each class of a network of garments,
by Sobol, is refined into five sub-concepts at the layer before. They are compared with
five concepts of other crops at that layer:

    sub-concepts    of the tenth of the class's crops with most of the concept
    random crops    of as many random crops of the class: the control
    all crops       of all crops of the class, ten times as many
    another's       the sub-concepts of the class's least important concept

What is left unexplained is read on crops of unseen images: of the activations of those
that have most of the concept, and of the amount of the concept in any crop, by a linear
map of the amounts of the five that is fitted on the seen crops. A seed is a network
(`repro.problems.garment_concepts`), shared by all rows; nothing is tuned.
"""

import dataclasses

import jax
import numpy as np

from lostjax.analysis import extract_crops, nmf, nnls, refine_concept
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.craft import rank_by_sobol
from lostjax.repro.problems.garment_concepts import (
    ClassConcepts,
    Network,
    Reading,
    find_concepts,
    train_network,
)
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE
from lostjax.typing import Array

LEFT = "activations left unexplained, %"
AMOUNT = "variance of the concept left unexplained, %"
OWN, RANDOM, ALL, OTHER = "sub-concepts", "random crops", "all crops", "another's"
RANK, QUANTILE = 5, 0.9


def refine(
    view: str, network: Network, found: ClassConcepts, order_R: np.ndarray, *, seed: int
) -> Array:
    """Find five concepts of the layer before, (R, M)."""
    crops = found.crops_NHWC
    if view in (OWN, OTHER):
        concept = int(order_R[0 if view == OWN else -1])
        return refine_concept(
            network.encode_early,
            crops,
            strength_B=found.strength_NR[:, concept],
            rank=RANK,
            quantile=QUANTILE,
        ).factors.w_RM
    count = len(crops) if view == ALL else round(len(crops) * (1 - QUANTILE))
    rows = np.random.default_rng(seed).permutation(len(crops))[:count]
    return nmf(network.encode_early(crops[rows]), RANK).w_RM


def measure(config: Reading, rate: float | None, seed: int) -> dict[str, float]:
    """Measure what five concepts explain of every class's most important one."""
    assert rate is None
    network = train_network(config, seed)
    each = []
    for label, found in find_concepts(config, seed).items():

        def logit(a_BM: Array, label: int = label) -> Array:
            return network.head(a_BM)[:, label]

        order_R = np.argsort(-np.asarray(rank_by_sobol(logit, found)))
        w_RM = refine(config.view, network, found, order_R, seed=seed)
        unseen = extract_crops(
            found.unseen_BHWC, size=config.crop, stride=config.stride
        )
        strength_N = found.strength_NR[:, order_R[0]]
        unseen_N = _explain(network.encode(unseen), found.w_RM)[:, order_R[0]]
        each.append(
            judge(
                w_RM,
                network.encode_early(found.crops_NHWC),
                network.encode_early(unseen),
                strength_N=np.asarray(strength_N),
                unseen_N=np.asarray(unseen_N),
            )
        )
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def judge(
    w_RM: Array,
    seen_NM: Array,
    unseen_NM: Array,
    *,
    strength_N: np.ndarray,
    unseen_N: np.ndarray,
) -> dict[str, float]:
    """Measure what concepts of an early layer leave of a concept of a later one."""
    amounts = [
        np.asarray(_explain(a_NM, w_RM), np.float64) for a_NM in (seen_NM, unseen_NM)
    ]
    most_N = unseen_N >= np.quantile(unseen_N, QUANTILE)
    a_KM = np.asarray(unseen_NM)[most_N]
    rest_KM = a_KM - amounts[1][most_N] @ np.asarray(w_RM)
    inputs = [np.c_[np.ones(len(part)), part] for part in amounts]
    slope, *_ = np.linalg.lstsq(inputs[0], strength_N, rcond=None)
    wrong = np.mean((inputs[1] @ slope - unseen_N) ** 2)
    return {
        LEFT: 100 * float(np.linalg.norm(rest_KM) / np.linalg.norm(a_KM)),
        AMOUNT: 100 * float(wrong / np.var(unseen_N)),
    }


_explain = jax.jit(nnls)


def build_methods(scale: Scale[Reading]) -> dict[str, Reading]:
    """Build a row for each kind of crops."""
    return {
        view: dataclasses.replace(scale.config, view=view)
        for view in (OWN, RANDOM, ALL, OTHER)
    }


COMPARISONS = tuple(
    Comparison(OWN, other, f"sub-concepts explain {what} better than {words}", measure)
    for what, measure in (("its crops", LEFT), ("the concept", AMOUNT))
    for other, words in (
        (RANDOM, "concepts of random crops"),
        (ALL, "concepts of all crops"),
        (OTHER, "those of another concept"),
    )
)


def describe(scale: Scale[Reading]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every network: convolutions of {', '.join(map(str, config.widths))} channels "
        f"and an MLP, {config.steps:,} steps on {config.rows:,} images of "
        f"{config.data}; {config.rank} concepts a class, of {config.images} images and "
        f"their crops of {config.crop} x {config.crop}. {RANK} concepts of the layer "
        "before; what they leave is of crops of unseen images, of the activations' "
        "norm and of the amount's variance. Means over the classes."
    )


EXPERIMENT = Experiment(
    paper="CRAFT, one recursion (arXiv:2211.10154)",
    scales={
        "smoke": Scale(
            Reading(
                DIGITS,
                1000,
                widths=(6, 8),
                hidden=16,
                steps=200,
                images=20,
                crop=4,
                stride=2,
                rank=4,
            ),
            methods=(OWN, RANDOM),
        ),
        "small": Scale(Reading()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(LEFT, AMOUNT),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
)
