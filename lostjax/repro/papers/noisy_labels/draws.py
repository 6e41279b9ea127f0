"""Images whose labels are wrong as people's are, and what a run on them is made of."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from lostjax.data import (
    confuse_labels,
    epoch_rows,
    estimate_confusion,
    load_human_labels,
    symmetric_confusion,
)
from lostjax.repro.problems.images import DIGITS, GARMENTS, load_rows
from lostjax.typing import Key

NOISES = {
    "human 17 %": 0.172,
    "human 40 %": 0.402,
    "symmetric 20 %": 0.2,
    "symmetric 50 %": 0.5,
    "none": 0.2,
}
"""What co-teaching is told of the share of wrong labels."""
CLASSES, BATCH = 10, 50
PERIODS = 5
"""At whose ends a network is measured; co-teaching begins after two."""


class Settings(NamedTuple):
    """What a run may be told without being compiled again."""

    weight_decay: float = 0.0
    dropout: float = 0.0
    sigma: float = 0.0
    """Of nested dropout; 0 for none."""
    q: float = 0.0
    """Of the generalised cross entropy; 0 for cross entropy."""
    dropped: float = 0.0
    """By co-teaching, as a multiple of the share of wrong labels."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, and the settings that a method chooses among."""

    data: str = GARMENTS
    """Or digits, for the smoke scale, with symmetric noise in people's place."""
    rows: int = 500
    validation_rows: int = 200
    test_rows: int = 1000
    epochs: int = 10
    """Of each period."""
    block: int = 5
    """Seeds that the variance is taken over."""
    choices: tuple[Settings, ...] = (Settings(),)
    filtered: bool = False
    """Drop labels by cleanlab's filter first; one filter for each of the choices."""

    def without_method(self) -> "Training":
        """Leave out what differs between methods, which share data and programs."""
        return dataclasses.replace(self, choices=(), filtered=False)


class Seed(NamedTuple):
    """What one pair of networks is trained on."""

    # Any: NumPy arrays where they are drawn, JAX arrays in a run.
    inputs_BM: Any
    labels_B: Any
    rows_S2B: Any
    """Rows of each step and network."""
    validation_inputs_BM: Any
    validation_labels_B: Any
    told: Any
    """Share of wrong labels, as co-teaching is told."""
    key: Key


class Drawn(NamedTuple):
    """Data of every seed and noise, and the test images that they share."""

    seeds: list[Seed]
    test_BM: np.ndarray
    test_labels_B: np.ndarray


@cache
def draw(training: Training, block: int) -> Drawn:
    """Draw every seed of a block, each with every kind of noise, in turn."""
    split, confusions = load_rows(training.data), load_confusions(training.data)
    seeds = []
    for number in range(block * training.block, (block + 1) * training.block):
        order = np.random.default_rng(number).permutation(len(split.train.labels))
        rows = order[: training.rows]
        valid = order[training.rows : training.rows + training.validation_rows]
        key = jax.random.key(number)
        steps_SB = epoch_rows(
            jax.random.fold_in(key, 1),
            n_rows=training.rows,
            batch_size=BATCH,
            n_epochs=PERIODS * training.epochs,
        )
        for place, (noise, confusion_VV) in enumerate(confusions.items()):
            labels_B = confuse_labels(
                split.train.labels[rows],
                confusion_VV,
                key=jax.random.fold_in(key, 2 + place),
            )
            seeds.append(
                Seed(
                    split.train.inputs[rows],
                    np.asarray(labels_B),
                    np.stack([steps_SB, steps_SB], axis=1),
                    split.train.inputs[valid],
                    split.train.labels[valid],
                    np.float32(NOISES[noise]),
                    jax.random.fold_in(key, 100),
                )
            )
    test = slice(training.test_rows)
    return Drawn(seeds, split.heldout.inputs[test], split.heldout.labels[test])


@cache
def load_confusions(data: str) -> dict[str, np.ndarray]:
    """Load the confusion matrix of every kind of noise."""
    rates = {"symmetric 20 %": 0.2, "symmetric 50 %": 0.5, "none": 0.0}
    if data == DIGITS:
        rates |= {noise: NOISES[noise] for noise in NOISES if "human" in noise}
    found = {
        noise: symmetric_confusion(CLASSES, rate=rate) for noise, rate in rates.items()
    }
    if data != DIGITS:
        people = load_human_labels()
        for noise, given in (("17", people.random_1), ("40", people.worst)):
            found[f"human {noise} %"] = estimate_confusion(
                people.true, given, n_classes=CLASSES
            )
    return {noise: found[noise] for noise in NOISES}
