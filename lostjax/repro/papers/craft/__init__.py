"""CRAFT's ranking of concepts by Sobol indices against rankings by gradients.

Fel et al., "CRAFT: Concept Recursive Activation FacTorization for Explainability",
2022, arXiv:2211.10154: total Sobol indices rank concepts more faithfully than a
gradient in the manner of TCAV does. Their network is a ResNet-50 on ImageNet's classes;
here it is a small one on Fashion-MNIST (`repro.problems.garment_concepts`).

    Sobol              mean total index of each concept for the class's logit
    gradient           mean slope of the logit along each concept
    gradient's sign    share of images on which it is positive (TCAV); ties by the mean
    gradient x amount  mean slope times how much of the concept an image has
    amount             how much of it an image has, on average
    taking out         mean fall of the logit if the concept alone is taken out
    random             the control

The concepts of a class are ranked on the training images that they were found on, once
for the class, and taken out or put in in that order on test images that the network
takes for the class. The area under the logit lies between 0, that without any concept,
and 1, that with all. No ranking has anything to tune but the number of Sobol designs,
which is the library's default, 256. A seed is an initialisation, a draw of images and
an order; all rows share its networks.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import concept_importance
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
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

DELETION = "deletion: area under the logit"
INSERTION = "insertion: area over the logit"
PROBABILITY = "deletion: area under the probability"
CHANGED = "answers changed by the concepts, %"
SOBOL, RANDOM = "Sobol", "random"


def rank_by_sobol(logit: Callable[[Array], Array], found: ClassConcepts) -> Array:
    """Return total Sobol indices of the concepts."""
    return concept_importance(
        logit, found.u_BR, found.w_RM, n_designs=Reading().n_designs
    ).importance_R


def slopes(logit: Callable[[Array], Array], found: ClassConcepts) -> Array:
    """Compute the slopes of the logit along the concepts, (B, R)."""

    def total(u_BR: Array) -> Array:
        return jnp.sum(logit(u_BR @ found.w_RM))

    slope_BR: Array = jax.grad(total)(found.u_BR)
    return slope_BR


def rank_by_sign(logit: Callable[[Array], Array], found: ClassConcepts) -> Array:
    """Return the share of positive slopes, and far behind it their mean."""
    slope_BR = slopes(logit, found)
    mean_R = slope_BR.mean(axis=0)
    return (slope_BR > 0).mean(axis=0) + 1e-3 * mean_R / (1 + jnp.abs(mean_R))


def rank_by_taking_out(logit: Callable[[Array], Array], found: ClassConcepts) -> Array:
    """Return how far the logit falls without each concept."""
    R = len(found.w_RM)
    kept_RR = 1 - jnp.eye(R)
    without_RB = [logit((found.u_BR * kept_R) @ found.w_RM) for kept_R in kept_RR]
    whole_B = logit(found.u_BR @ found.w_RM)
    return (whole_B - jnp.stack(without_RB)).mean(axis=1)


RANKINGS: dict[str, Callable[[Callable[[Array], Array], ClassConcepts], Array]] = {
    SOBOL: rank_by_sobol,
    "gradient": lambda logit, found: slopes(logit, found).mean(axis=0),
    "gradient's sign": rank_by_sign,
    "gradient x amount": lambda logit, found: (found.u_BR * slopes(logit, found)).mean(
        axis=0
    ),
    "amount": lambda logit, found: found.u_BR.mean(axis=0),
    "taking out": rank_by_taking_out,
}


def measure(config: Reading, rate: float | None, seed: int) -> dict[str, float]:
    """Take concepts out and put them in, in the order of one ranking."""
    assert rate is None
    network = train_network(config, seed)
    rng = np.random.default_rng(seed)
    each = []
    for label, found in find_concepts(config, seed).items():
        if config.view == RANDOM:
            order_R = rng.permutation(config.rank)
        else:

            def logit(a_BM: Array, label: int = label) -> Array:
                return network.head(a_BM)[:, label]

            order_R = np.argsort(-np.asarray(RANKINGS[config.view](logit, found)))
        each.append(judge_order(network, found, label, order_R))
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def judge_order(
    network: Network, found: ClassConcepts, label: int, order_R: np.ndarray
) -> dict[str, float]:
    """Measure an order of a class's concepts on unseen images."""
    place_R = np.argsort(order_R)
    kept_KR = place_R >= np.arange(len(order_R) + 1)[:, None]  # K = 0, ..., R taken out
    deleted_KBV, inserted_KBV = (
        jnp.stack(
            [network.head((found.unseen_u_BR * row_R) @ found.w_RM) for row_R in mask]
        )
        for mask in (kept_KR, ~kept_KR)
    )
    chance_KB = jax.nn.softmax(deleted_KBV)[..., label]
    wrong_B = deleted_KBV[0].argmax(axis=-1) != label
    return {
        DELETION: _area(deleted_KBV[..., label]),
        INSERTION: 1 - _area(inserted_KBV[..., label]),
        PROBABILITY: float(np.trapezoid(chance_KB.mean(axis=1))) / len(order_R),
        CHANGED: 100 * float(wrong_B.mean()),
    }


def _area(logit_KB: Array) -> float:
    """Compute the area between the lowest end, 0, and the other, 1."""
    mean_K = np.asarray(logit_KB.mean(axis=1), np.float64)
    ends = mean_K[0], mean_K[-1]
    scaled_K = (mean_K - min(ends)) / (max(ends) - min(ends))
    return float(np.trapezoid(scaled_K)) / (len(mean_K) - 1)


def build_methods(scale: Scale[Reading]) -> dict[str, Reading]:
    """Build a row for each ranking."""
    return {
        view: dataclasses.replace(scale.config, view=view)
        for view in (*RANKINGS, RANDOM)
    }


COMPARISONS = tuple(
    Comparison(
        SOBOL, other, f"{words} by Sobol is more faithful than by {other}", measure
    )
    for words, measure in (("deletion", DELETION), ("insertion", INSERTION))
    for other in (*list(RANKINGS)[1:], RANDOM)
) + tuple(
    Comparison(
        SOBOL,
        other,
        f"the probability falls faster by Sobol than by {other}",
        PROBABILITY,
    )
    for other in ("gradient's sign", RANDOM)
)


def describe(scale: Scale[Reading]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every network: convolutions of {', '.join(map(str, config.widths))} channels "
        f"and an MLP, {config.steps:,} steps on {config.rows:,} images of "
        f"{config.data}. Each class has {config.rank} concepts, of {config.images} "
        f"training images and their crops of {config.crop} x {config.crop}; they are "
        f"judged on {config.images} test images. An area is the mean over the classes."
    )


EXPERIMENT = Experiment(
    paper="CRAFT: Concept Recursive Activation FacTorization (arXiv:2211.10154)",
    scales={
        "smoke": Scale(
            Reading(
                DIGITS,
                1000,
                widths=(4, 8),
                hidden=16,
                steps=200,
                images=20,
                crop=4,
                stride=2,
                rank=4,
            ),
            methods=(SOBOL, "amount", RANDOM),
        ),
        "small": Scale(Reading()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(DELETION, INSERTION, PROBABILITY, CHANGED),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
)
