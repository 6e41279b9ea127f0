"""Losses of rare tags, and the methods that use them with their settings.

    cross entropy
    weighted       positives count w times: 3, 10 or 30
    focal          Lin et al., 2017, arXiv:1708.02002: gamma .5, 1 or 2
    hard negatives cross entropy of the positives and the k hardest negatives: 16, 64
                   or 256
    dice           per example, squared, smoothing 1: alpha 0, .01 or .1; .01 is what
                   the authors' scripts use
    set dice       of the whole batch, squared: smoothing .1, 1 or 10
    Tversky        of the whole batch: a missed positive costs .5, .7 or .9 of 1
    set dice, shuffled labels       the control

Li et al., "Dice Loss for Data-imbalanced NLP Tasks", 2019, arXiv:1911.02855.
"""

import dataclasses

import jax.numpy as jnp
import optax

from lostjax import losses
from lostjax.repro.findings import Comparison
from lostjax.repro.problems.rare_tags import HALF, TUNED, Loss, Tagging, measure
from lostjax.typing import Array

METHODS: dict[str, tuple[str, tuple[float, ...]]] = {
    "cross entropy": ("cross entropy", (0.0,)),
    "weighted": ("weighted", (3.0, 10.0, 30.0)),
    "focal": ("focal", (0.5, 1.0, 2.0)),
    "hard negatives": ("hard negatives", (16.0, 64.0, 256.0)),
    "dice": ("dice", (0.0, 0.01, 0.1)),
    "set dice": ("set dice", (0.1, 1.0, 10.0)),
    "Tversky": ("Tversky", (0.5, 0.7, 0.9)),
    "set dice, shuffled labels": ("set dice", (0.1, 1.0, 10.0)),
}
"""A method's loss, and the settings that it chooses among."""
CONTROL = "set dice, shuffled labels"


def _cross_entropy(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    del setting
    values_B: Array = optax.sigmoid_binary_cross_entropy(logits_B, labels_B)
    return values_B.mean()


def _weighted(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    weights_B = jnp.where(labels_B == 1, setting, 1.0)
    values_B = optax.sigmoid_binary_cross_entropy(logits_B, labels_B)
    return losses.weighted_mean(values_B, weights_B)


def _focal(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    labels_B = labels_B.astype(float)
    values_B: Array = optax.sigmoid_focal_loss(logits_B, labels_B, gamma=setting)
    return values_B.mean()


def _hard_negatives(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    mask_B = losses.hard_negative_mask(logits_B, labels_B, k=setting.astype(jnp.int32))
    values_B = optax.sigmoid_binary_cross_entropy(logits_B, labels_B)
    return losses.weighted_mean(values_B, mask_B.astype(float))


def _dice(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    return losses.dice_loss(logits_B, labels_B, alpha=setting).mean()


def _set_dice(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    return losses.set_dice_loss(logits_B, labels_B, smooth=setting)


def _tversky(logits_B: Array, labels_B: Array, setting: Array) -> Array:
    return losses.set_tversky_loss(
        logits_B,
        labels_B,
        false_negative_cost=setting,
        false_positive_cost=1 - setting,
    )


LOSSES: dict[str, Loss] = {
    "cross entropy": _cross_entropy,
    "weighted": _weighted,
    "focal": _focal,
    "hard negatives": _hard_negatives,
    "dice": _dice,
    "set dice": _set_dice,
    "Tversky": _tversky,
}


def train(config: Tagging, rate: float | None, seed: int) -> dict[str, float]:
    """Train and measure one seed."""
    assert rate is not None
    return measure(config, rate, seed, losses=LOSSES)


def build_tagging_methods(config: Tagging) -> dict[str, Tagging]:
    """Build every method of one size and data."""
    return {
        name: dataclasses.replace(
            config, loss=loss, settings=settings, shuffled=name == CONTROL
        )
        for name, (loss, settings) in METHODS.items()
    }


def compare(first: str, second: str, what: str = TUNED) -> Comparison:
    """State that a method has the higher F1."""
    at = {TUNED: "", HALF: " at p = .5"}[what]
    return Comparison(first, second, f"{first} has a higher F1 than {second}{at}", what)


COMPARISONS = (
    *(
        compare(first, second, what)
        for what in (TUNED, HALF)
        for first in ("dice", "set dice")
        for second in ("cross entropy", "weighted", "focal")
    ),
    compare("Tversky", "cross entropy"),
    compare("dice", "hard negatives"),
    compare("set dice", "hard negatives"),
    compare("set dice", CONTROL),
)


def describe_tagging(config: Tagging) -> str:
    """Describe the setting."""
    return (
        f"Every run: for each of the tags {', '.join(config.tags)} a perceptron on "
        f"five words of {config.data}, {config.steps:,} steps of Adam with a cosine "
        f"schedule, {config.rows} words a step, on {config.train_texts:,} texts; "
        f"settings and thresholds are tuned on {config.valid_texts} others, and "
        f"{config.test_texts} others are tested. The first measures are means over the "
        "tags."
    )
