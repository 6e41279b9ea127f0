"""The sets of few-shot learning, split by class, and the episodes of a seed."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from lostjax.data import Episode, Samples, draw_episode, load_glyphs, load_openmoji

SIZE = 16
SHIFT, NOISE = 2, 0.1
"""Pixels that an image is moved by at most, and deviation of what is added; fixed for
each seed. Without them the faces of a letter are all but copies."""
FEWEST, MOST = 16, 40
"""Pictograms of a class that is kept, and of which no more are taken."""
WAY, SHOT, QUERY = 5, 5, 10
"""Of an episode to judge by; of the five, one shot takes the first."""
TRAIN_WAY = 10
CHOOSE_EPISODES, JUDGE_EPISODES = 200, 600


class Classes(NamedTuple):
    """Images by class, and which classes must stay on one side of a split."""

    images_BM: np.ndarray
    labels_B: np.ndarray
    kin: tuple[str, ...]
    """Of each class, what it shares with those of its kind."""


class Episodes(NamedTuple):
    """Images of a set, and the episodes that are drawn from disjoint classes."""

    images_BM: Any
    train: Episode
    choose: Episode
    judge: Episode


def draw_glyphs() -> Classes:
    """Draw the letters; the two cases of one are of a kind."""
    return _by_letter(load_glyphs(size=SIZE), lambda letter: True)


def draw_latin() -> Classes:
    """Draw the Latin letters alone: for `smoke`."""
    return _by_letter(load_glyphs(size=SIZE), lambda letter: letter < "\u0370")


def draw_others() -> Classes:
    """Draw the Greek and Cyrillic letters alone: for `smoke`."""
    return _by_letter(load_glyphs(size=SIZE), lambda letter: letter >= "\u0370")


def draw_pictograms() -> Classes:
    """Draw OpenMoji in grey: a class is a subgroup of annotation, without variants."""
    found = load_openmoji(size=SIZE)
    firsts = list({name: row for row, name in enumerate(found.families[::-1])}.values())
    rows = sorted(len(found.families) - 1 - row for row in firsts)
    counts = Counter(found.subgroups[row] for row in rows)
    names = sorted(name for name, count in counts.items() if count >= FEWEST)
    chosen = [
        row
        for name in names
        for row in [row for row in rows if found.subgroups[row] == name][:MOST]
    ]
    grey = 1 - found.images[chosen].mean(axis=-1)
    labels = [names.index(found.subgroups[row]) for row in chosen]
    return Classes(grey.reshape(len(chosen), -1), np.asarray(labels), tuple(names))


SETS: dict[str, Callable[[], Classes]] = {
    "glyphs": draw_glyphs,
    "pictograms": draw_pictograms,
    "latin": draw_latin,
    "others": draw_others,
}


@cache
def load_set(name: str) -> Classes:
    """Draw a set once."""
    return SETS[name]()


@cache
def draw_seeds(name: str, seeds: tuple[int, ...], steps: int) -> Episodes:
    """Draw splits and episodes of a set, leaves (seeds, ...)."""
    drawn = [_draw_seed(load_set(name), seed, steps) for seed in seeds]
    stacked: Episodes = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    return stacked


def _draw_seed(classes: Classes, seed: int, steps: int) -> Episodes:
    """Split by kind: 3/5 of the kinds train, 1/5 choose, 1/5 are judged."""
    generator = np.random.default_rng(seed)
    kinds = generator.permutation(sorted(set(classes.kin)))
    first, second = len(kinds) * 3 // 5, len(kinds) * 4 // 5
    parts = (kinds[:first], kinds[first:second], kinds[second:])
    sizes = ((steps, TRAIN_WAY), (CHOOSE_EPISODES, WAY), (JUDGE_EPISODES, WAY))
    drawn = [
        _draw_episodes(classes, set(part.tolist()), generator, count=count, way=way)
        for part, (count, way) in zip(parts, sizes, strict=True)
    ]
    return Episodes(_disturb(classes.images_BM, generator), *drawn)


def _disturb(images_BM: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move each image, around the edges, and add noise."""
    moves = generator.integers(-SHIFT, SHIFT + 1, size=(len(images_BM), 2))
    squares = images_BM.reshape(-1, SIZE, SIZE)
    moved = [
        np.roll(image, move, axis=(0, 1))
        for image, move in zip(squares, moves, strict=True)
    ]
    noise = generator.normal(scale=NOISE, size=images_BM.shape)
    disturbed: np.ndarray = np.stack(moved).reshape(images_BM.shape) + noise
    return disturbed.astype(np.float32)


def _draw_episodes(
    classes: Classes,
    kinds: set[str],
    generator: np.random.Generator,
    *,
    count: int,
    way: int,
) -> Episode:
    """Draw episodes from the classes of some kinds."""
    inside = np.flatnonzero([classes.kin[label] in kinds for label in classes.labels_B])
    keys = jax.random.split(jax.random.key(generator.integers(2**31)), count)

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> Episode:
        return draw_episode(
            classes.labels_B[inside], way=way, shot=SHOT, query=QUERY, key=key
        )

    found = jax.device_get(draw(keys))
    return Episode(found.classes_N, inside[found.support_NS], inside[found.query_NQ])


def _by_letter(samples: Samples, keep: Callable[[str], bool]) -> Classes:
    """Take some letters' classes."""
    letters = [letter for letter in samples.names if keep(letter)]
    rows = np.isin(samples.labels, [samples.names.index(each) for each in letters])
    images = samples.inputs[rows]
    _, labels = np.unique(samples.labels[rows], return_inverse=True)
    kin = tuple(letter.casefold() for letter in letters)
    return Classes(images.reshape(len(images), -1), labels, kin)
