"""A simulated user of CRAFT: crops of concepts, or of heat maps, to guess answers by.

Fel et al., "CRAFT: Concept Recursive Activation FacTorization for Explainability",
2022, arXiv:2211.10154, let people guess what a model answers on images that they have
not seen, after explanations of others; concepts helped more than heat maps in two of
three tasks. People cannot be simulated. Here a user who sees pixels alone is shown 15
crops for each answer of a network of garments, and guesses its answer on other images:

    concepts           the crops that have most of a class's three most important
                       concepts by Sobol, five each
    least important    the same of the three least important concepts: a control
    heat maps          of 15 images each the crop with most gradient x input
    random crops       of 15 images each a random crop: the control
    whole images       15 images, no explanation

The user compares a crop with all crops of an image by the cosine of their centred
pixels and keeps the largest. Of every crop that was shown the similarities over all
images are scaled to mean 0 and variance 1, and the guess is the answer whose crops are
most similar on average. Nothing is tuned; the numbers of crops were settled before
anything was measured. Each answer is as frequent as any other, so that chance is wrong
in 90 %. A seed is a network (`repro.problems.garment_concepts`), shared by all rows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import extract_crops
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

WRONG = "wrong guesses, %"
CONCEPTS, LEAST = "concepts", "least important"
HEAT, RANDOM, WHOLE = "heat maps", "random crops", "whole images"
N_CONCEPTS, N_CROPS = 3, 5
N_SHOWN = N_CONCEPTS * N_CROPS


def choose_crops(
    view: str, network: Network, found: ClassConcepts, label: int, *, seed: int
) -> Array:
    """Choose what the user is shown of a class, (K, S, S, 1)."""

    def logit(a_BM: Array) -> Array:
        return network.head(a_BM)[:, label]

    per_image = len(found.crops_NHWC) // len(found.images_BHWC)
    if view == WHOLE:
        return found.images_BHWC[:N_SHOWN]
    if view in (CONCEPTS, LEAST):
        order_R = np.argsort(-np.asarray(rank_by_sobol(logit, found)))
        chosen = order_R[:N_CONCEPTS] if view == CONCEPTS else order_R[-N_CONCEPTS:]
        strength_RN = np.asarray(found.strength_NR).T[chosen]
        return found.crops_NHWC[np.argsort(-strength_RN)[:, :N_CROPS].ravel()]
    if view == RANDOM:
        place_B = np.random.default_rng([seed, label]).integers(per_image, size=N_SHOWN)
    else:
        images = found.images_BHWC[:N_SHOWN]
        slope = jax.grad(lambda x: jnp.sum(logit(network.encode(x))))(images)
        size = found.crops_NHWC.shape[1]
        stride = (images.shape[1] - size) // (round(per_image**0.5) - 1)
        heat_NHWC = extract_crops(slope * images, size=size, stride=stride)
        heat_N = heat_NHWC.sum(axis=(1, 2, 3))
        place_B = np.asarray(heat_N).reshape(N_SHOWN, per_image).argmax(axis=1)
    return found.crops_NHWC[np.arange(N_SHOWN) * per_image + place_B]


def measure(config: Reading, rate: float | None, seed: int) -> dict[str, float]:
    """Let the user guess, and compare with the network's answers."""
    assert rate is None
    network, concepts = train_network(config, seed), find_concepts(config, seed)
    answers_B = np.repeat(list(concepts), config.images)
    unseen = jnp.concatenate([found.unseen_BHWC for found in concepts.values()])
    if config.view == WHOLE:
        crops = unseen
    else:
        crops = extract_crops(unseen, size=config.crop, stride=config.stride)
    seen_BPX = centre(crops).reshape(len(unseen), -1, crops[0].size)
    scores = []
    for label, found in concepts.items():
        shown = choose_crops(config.view, network, found, label, seed=seed)
        scores.append(score_class(seen_BPX, centre(shown)))
    guesses_B = np.array(list(concepts))[np.stack(scores).argmax(axis=0)]
    return {WRONG: 100 * float(np.mean(guesses_B != answers_B))}


def centre(crops_NHWC: Array) -> Array:
    """Centre the pixels of crops and scale them to a norm of 1, (N, X)."""
    x_NX = crops_NHWC.reshape(len(crops_NHWC), -1)
    x_NX -= x_NX.mean(axis=1, keepdims=True)
    return x_NX / jnp.maximum(jnp.linalg.norm(x_NX, axis=1, keepdims=True), 1e-6)


def score_class(seen_BPX: Array, shown_KX: Array) -> np.ndarray:
    """Score how similar images are to the crops of one class, (B,)."""
    similar_BK = np.asarray((seen_BPX @ shown_KX.T).max(axis=1), np.float64)
    spread_K = similar_BK.std(axis=0)
    scaled_BK = (similar_BK - similar_BK.mean(axis=0)) / np.where(
        spread_K > 0, spread_K, 1
    )
    score_B: np.ndarray = scaled_BK.mean(axis=1)
    return score_B


def build_methods(scale: Scale[Reading]) -> dict[str, Reading]:
    """Build a row for each way to choose the crops."""
    return {
        view: dataclasses.replace(scale.config, view=view)
        for view in (CONCEPTS, LEAST, HEAT, RANDOM, WHOLE)
    }


COMPARISONS = (
    Comparison(CONCEPTS, HEAT, "concepts tell the answer better than heat maps"),
    Comparison(CONCEPTS, RANDOM, "concepts tell it better than random crops"),
    Comparison(
        CONCEPTS, LEAST, "important concepts tell it better than the least important"
    ),
    Comparison(CONCEPTS, WHOLE, "concepts tell it better than whole images"),
    Comparison(HEAT, RANDOM, "heat maps tell it better than random crops"),
    Comparison(CONCEPTS, 90.0, "concepts tell it better than chance"),
)


def describe(scale: Scale[Reading]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every network: convolutions of {', '.join(map(str, config.widths))} channels "
        f"and an MLP, {config.steps:,} steps on {config.rows:,} images of "
        f"{config.data}; {config.rank} concepts a class, of {config.images} images and "
        f"their crops of {config.crop} x {config.crop}. The user is shown {N_SHOWN} "
        f"crops for each answer and guesses {config.images} other images of each; "
        "chance is wrong in 90 %."
    )


EXPERIMENT = Experiment(
    paper="CRAFT, what a user learns from it (arXiv:2211.10154)",
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
            methods=(CONCEPTS, RANDOM),
        ),
        "small": Scale(Reading()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(WRONG,),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
)
