"""Pictures, their captions and splits of both by families."""

import dataclasses
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lostjax.data import Pictograms, load_digits, load_openmoji
from lostjax.data.samples.captions import Captions, caption_pictures
from lostjax.data.samples.families import split_families
from lostjax.typing import Array

LENGTH, VOCABULARY, VARIANTS = 16, 1536, 12
"""Tokens of a caption, of the vocabulary, and pictures of one family at most."""
SHARES = (0.7, 0.15)
"""Of the families: to train on, to choose the learning rate by; the rest are tests."""


@dataclasses.dataclass(frozen=True)
class Captioning:
    """What is trained on what, and how its tokens count."""

    source: str = "openmoji"
    share: float = 1.0
    """Of the families to train on."""
    width: int = 48
    layers: int = 2
    encoder_layers: int = 0
    sees: bool = True
    """Whether the model sees the picture; the reference does not."""
    steps: int = 300
    batch: int = 32
    alpha: float = 0.0
    """0: every token counts the same."""
    min_weight: float = 0.0
    shuffled: bool = False


class Task(NamedTuple):
    """Pictures, captions and a split of both."""

    images_NHWC: Array
    captions: Captions
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Data(NamedTuple):
    """What a run is trained on, as arrays."""

    images_NHWC: Array
    tokens_NT: Array
    kinds_NT: Array
    factors_NT: Array
    """How much each token counts besides whether it is there."""
    rows_SB: Array
    """Pictures of each step."""


@cache
def load_pictures(source: str) -> Pictograms:
    """Load pictures with annotations and tags, centred at 0."""
    if source == "openmoji":
        found = load_openmoji(size=24)
        # White is the ground: ink is what differs from it.
        return found._replace(images=1 - found.images)
    digits = load_digits()
    names = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    ]
    facts = [("odd" if digit % 2 else "even", "digit") for digit in range(10)]
    codes = tuple(map(str, range(len(digits.labels))))
    return Pictograms(
        images=np.repeat(digits.inputs[..., None], 3, axis=-1),
        codes=codes,
        families=codes,
        annotations=tuple(f"handwritten {names[label]}" for label in digits.labels),
        tags=tuple(facts[label] for label in digits.labels),
        groups=("digits",) * len(codes),
        subgroups=("",) * len(codes),
        licence=digits.licence,
        source=digits.source,
    )


@cache
def make_task(source: str, share: float, seed: int) -> Task:
    """Split the families, and caption their pictures."""
    pictures = load_pictures(source)
    parts = split_families(pictures.families, shares=SHARES, seed=seed, most=VARIANTS)
    whole, validation, test = (sum(part, ()) for part in parts)
    train = sum(parts[0][: round(share * len(parts[0]))], ())
    captions = caption_pictures(
        pictures,
        # One vocabulary for all sizes of the data, so that their losses compare.
        train_rows=whole,
        vocab_size=VOCABULARY,
        length=LENGTH,
        seed=seed,
    )
    rows = (train, validation, test)
    return Task(jnp.asarray(pictures.images), captions, *map(np.asarray, rows))


def make_data(task: Task, config: Captioning, *, seed: int) -> Data:
    """Put the data on the device, every token of a caption counting the same."""
    rng = np.random.default_rng(seed)
    epochs = -(-config.steps * config.batch // len(task.train))
    order = np.concatenate([rng.permutation(task.train) for _ in range(epochs)])
    rows = order[: config.steps * config.batch].reshape(config.steps, config.batch)
    kinds_NT = jnp.asarray(task.captions.kinds_NT)
    return Data(
        task.images_NHWC,
        jnp.asarray(task.captions.tokens_NT),
        kinds_NT,
        (kinds_NT > 0).astype(jnp.float32),
        jnp.asarray(rows),
    )
