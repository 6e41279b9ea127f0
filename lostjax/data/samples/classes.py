"""Examples and their classes as arrays, and splits in proportion from every class."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Samples:
    """Examples and their classes: a tree whose leaves are the two arrays.

    Example:
        rows = jax.tree.map(lambda leaf: leaf[:32], samples)
        splits = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits_of_seeds)
    """

    # Any: jax puts tracers and placeholders into trees.
    inputs: Any
    """Images (B, height, width), float32 in [0, 1]; or any other inputs."""
    labels: Any
    """Classes (B,), int32 in [0, len(names))."""
    names: tuple[str, ...] = field(metadata={"static": True})
    """What each class is called."""
    licence: str = field(metadata={"static": True})
    """Of the data, as its package states it; "not stated" if it does not."""
    source: str = field(metadata={"static": True})
    """Where the data came from."""


class Split(NamedTuple):
    """What is trained on, and what is held out."""

    train: Samples
    heldout: Samples


def split_samples(samples: Samples, *, train_rows: int, seed: int) -> Split:
    """Draw the rows that are trained on, in proportion from every class.

    Args:
      samples: what is split.
      train_rows: rows to train on, from 1 to all but one; each class has its share,
        rounded so that they add up.
      seed: not negative; decides the rows and the order of both parts. The number of
        rows of each class does not depend on it.

    Returns:
      The split, every row in exactly one part.

    Raises:
      ValueError: train_rows or the seed lies outside its range.
    """
    n_rows = len(samples.labels)
    if not 1 <= train_rows < n_rows:
        raise ValueError(f"train_rows={train_rows}: must lie in [1, {n_rows - 1}]")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or positive")
    order = np.random.default_rng(seed).permutation(n_rows)
    quotas = _share_out(np.bincount(samples.labels), train_rows)
    # A row's place among the rows of its class, in drawn order.
    by_class = np.argsort(samples.labels[order], kind="stable")
    counts = np.bincount(samples.labels)
    place = np.empty(n_rows, np.int64)
    place[by_class] = np.arange(n_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    is_train = place < quotas[samples.labels[order]]
    return Split(_take(samples, order[is_train]), _take(samples, order[~is_train]))


def _share_out(counts: np.ndarray, total: int) -> np.ndarray:
    """Share out `total` in proportion to counts, the largest remainders first."""
    whole, rest = np.divmod(counts.astype(np.int64) * total, int(counts.sum()))
    largest = np.argsort(-rest, kind="stable")[: total - int(whole.sum())]
    whole[largest] += 1
    return whole


def _take(samples: Samples, rows: np.ndarray) -> Samples:
    taken: Samples = jax.tree.map(lambda leaf: leaf[rows], samples)
    return taken
