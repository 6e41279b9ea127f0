"""Images with a long tail of rare classes, and what a run on them is made of."""

import dataclasses
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.repro.problems.images import GARMENTS, load_rows
from lostjax.typing import Key

RADIUS = 0.02
"""By which an attack may move each pixel."""
IMBALANCE = 5.0
"""Images of the most frequent class for one of the rarest."""
CLASSES, BATCH, NEW_SHARE = 10, 100, 0.1


class Settings(NamedTuple):
    """What a run may be told without being compiled again."""

    learning_rate: float = 0.1
    weight_decay: float = 0.0
    beta: float = 0.0
    """Weight of the divergence in TRADES."""
    power: float = 0.0
    """Of the classes' sizes, in their weights."""
    temperature: float = 0.0
    """Of the doubly robust weights; 0 for none."""
    new_share: float = NEW_SHARE
    barrier: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, what it is made of, and the settings that it chooses among."""

    data: str = GARMENTS
    rows: int = 6000
    validation_rows: int = 2000
    test_rows: int = 2000
    epochs: int = 10
    attack_steps: int = 50
    restarts: int = 5
    queries: int = 500
    choices: tuple[Settings, ...] = (Settings(),)
    barrier: bool = False
    """Ascend with a barrier and add its answer, in place of PGD."""
    trades: bool = False
    shuffled: bool = False
    """Give weights to other examples of the batch."""

    def without_method(self) -> "Training":
        """Leave out what differs between methods, which share data and attacks."""
        return dataclasses.replace(
            self, choices=(), barrier=False, trades=False, shuffled=False
        )


class Seed(NamedTuple):
    """What is trained on and tuned by."""

    # Any: NumPy arrays where they are drawn, JAX arrays in a run.
    inputs_BM: Any
    labels_B: Any
    counts_V: Any
    """Images of each class."""
    validation_BM: Any
    validation_labels_B: Any
    key: Key


class Drawn(NamedTuple):
    """Seeds, and the images that are attacked, which all share."""

    seeds: Seed
    test_BM: jax.Array
    test_labels_B: jax.Array


@cache
def draw(training: Training, seeds: tuple[int, ...]) -> Drawn:
    """Draw a long tail to train on for each seed, and all else in equal parts.

    The last class has the most images, the first the fewest.
    """
    train, test = load_rows(training.data)
    shares_V = IMBALANCE ** -(np.arange(CLASSES) / (CLASSES - 1))
    wanted_V = np.floor(training.rows * shares_V / shares_V.sum()).astype(int)
    wanted_V[0] += training.rows - wanted_V.sum()
    counts_V = wanted_V[::-1]
    each = training.validation_rows // CLASSES
    found = []
    for number in seeds:
        generator = np.random.default_rng(number)
        rows, validation = [], []
        for label, count in enumerate(counts_V):
            of_class = generator.permutation(np.flatnonzero(train.labels == label))
            rows.append(of_class[each : each + count])
            validation.append(of_class[:each])
        rows_B, validation_B = np.concatenate(rows), np.concatenate(validation)
        found.append(
            Seed(
                train.inputs[rows_B],
                train.labels[rows_B],
                counts_V.astype(np.float32),
                train.inputs[validation_B],
                train.labels[validation_B],
                jax.random.key(number),
            )
        )
    stacked: Seed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    per_class = training.test_rows // CLASSES
    first_B = np.concatenate(
        [np.flatnonzero(test.labels == label)[:per_class] for label in range(CLASSES)]
    )
    return Drawn(
        stacked, jnp.asarray(test.inputs[first_B]), jnp.asarray(test.labels[first_B])
    )
