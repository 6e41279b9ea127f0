"""An n-gram model of token ids, interpolated with absolute discounting D.

    p_n(w | h) = max(c(h w) - D, 0) / c(h)  +  D types(h) / c(h)  p_{n-1}(w | h')

The recursion ends at the uniform p_0 = 1 / V. h' is h without its first token, and
p_n = p_{n-1} if the history h never occurred. In the Kneser-Ney variant the highest
order counts occurrences, and lower orders count the different contexts of an n-gram.

Kneser and Ney, "Improved backing-off for m-gram language modeling", 1995; interpolated
as in Chen and Goodman, "An empirical study of smoothing techniques for language
modeling", 1999, but with one discount for all orders instead of their three.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer


class _Level(NamedTuple):
    keys: Int[np.ndarray, " G"]
    counts: Int[np.ndarray, " G"]


def predict_ngram(
    train_tokens: Integer[np.ndarray, " N"],
    heldout_tokens: Integer[np.ndarray, " M"],
    *,
    order: int,
    vocab_size: int,
    discount: float = 0.75,
    occurrences_from: int | None = None,
) -> Float[np.ndarray, " P"]:
    """Compute the probability of each held-out token under an n-gram model.

    Args:
      train_tokens: token ids (N,) to count, as one stream.
      heldout_tokens: token ids (M,); each except the first is predicted from its
        predecessors.
      order: n, at least 1; 3 is a trigram.
      vocab_size: V; V^n must be below 2^63.
      discount: D in (0, 1).
      occurrences_from: lowest order that counts occurrences; lower orders count
        contexts. The default, `order`, is Kneser-Ney.

    Returns:
      Probabilities, shape (M - 1,).

    Raises:
      ValueError: if an argument is out of range.
    """
    _check(train_tokens, heldout_tokens, order, vocab_size, discount)
    raw = order if occurrences_from is None else occurrences_from
    p_M = np.full(heldout_tokens.size - 1, 1.0 / vocab_size)
    for n in range(1, order + 1):
        level = _count(train_tokens, n, vocab_size, occurrences=n >= raw)
        if level.keys.size:
            p_M = _interpolate(p_M, level, heldout_tokens, n, vocab_size, discount)
    return p_M


def _interpolate(
    lower_M: Float[np.ndarray, " M"],
    level: _Level,
    tokens: Integer[np.ndarray, " L"],
    n: int,
    vocab_size: int,
    discount: float,
) -> Float[np.ndarray, " M"]:
    """Interpolate the discounted counts of one order with the order below."""
    # Tokens with fewer than n - 1 predecessors keep the lower order's probability.
    first = max(n - 2, 0)
    grams = _grams(tokens, n, vocab_size)[1 if n == 1 else 0 :]
    histories, index = np.unique(level.keys // vocab_size, return_inverse=True)
    totals = np.bincount(index, weights=level.counts)
    types = np.bincount(index)
    history = grams // vocab_size
    seen = _find(_Level(histories, np.ones_like(histories)), history) > 0
    # searchsorted returns the length for keys past the end, which is no valid index.
    at = np.minimum(np.searchsorted(histories, history), histories.size - 1)
    counts = np.maximum(_find(level, grams) - discount, 0.0)
    mixed = (counts + discount * types[at] * lower_M[first:]) / totals[at]
    return np.concatenate([lower_M[:first], np.where(seen, mixed, lower_M[first:])])


def _count(
    tokens: Integer[np.ndarray, " N"], n: int, vocab_size: int, *, occurrences: bool
) -> _Level:
    if occurrences:
        return _Level(*np.unique(_grams(tokens, n, vocab_size), return_counts=True))
    # Distinct (n+1)-grams that end in an n-gram count its different left contexts.
    longer = np.unique(_grams(tokens, n + 1, vocab_size))
    return _Level(*np.unique(longer % vocab_size**n, return_counts=True))


def _grams(
    tokens: Integer[np.ndarray, " N"], n: int, vocab_size: int
) -> Int[np.ndarray, " G"]:
    """Encode the n-grams of a stream as integers in base V."""
    size = max(tokens.size - n + 1, 0)
    keys = np.zeros(size, np.int64)
    for i in range(n):
        # int64 before multiplying: uint16 tokens would overflow; `_check` bounds V^n by
        # 2^63.
        keys = keys * vocab_size + tokens[i : i + size].astype(np.int64)
    return keys


def _find(level: _Level, keys: Int[np.ndarray, " K"]) -> Int[np.ndarray, " K"]:
    # Clip: searchsorted returns the length for keys past the end; the comparison
    # rejects it.
    at = np.minimum(np.searchsorted(level.keys, keys), level.keys.size - 1)
    return np.where(level.keys[at] == keys, level.counts[at], 0)


def _check(
    train_tokens: Integer[np.ndarray, " N"],
    heldout_tokens: Integer[np.ndarray, " M"],
    order: int,
    vocab_size: int,
    discount: float,
) -> None:
    if order < 1 or vocab_size < 1 or vocab_size**order >= 2**63:
        raise ValueError(
            f"order: {order} must be at least 1, and vocab_size {vocab_size} to the "
            "power of order below 2^63"
        )
    if not 0.0 < discount < 1.0:
        raise ValueError(f"discount: {discount} must lie in (0, 1)")
    if heldout_tokens.size < 2:
        raise ValueError("heldout_tokens: must hold at least 2 tokens")
    for name, ids in (("train", train_tokens), ("heldout", heldout_tokens)):
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise ValueError(f"{name}_tokens: ids must lie in [0, {vocab_size})")
