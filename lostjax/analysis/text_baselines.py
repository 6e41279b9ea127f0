"""Baselines for language models without a neural network: bits per byte of held-out
text.

    uniform             log2(V) tokens / bytes
    xz                  8 |xz(H)| / bytes
    xz given the text   8 (|xz(T H)| - |xz(T)|) / bytes     T: the training text
    n-gram              -sum log2 p(token | history) / bytes

H is the held-out text, and bytes are its UTF-8 bytes. The n-gram models are those of
`analysis.ngrams`, over token ids with end-of-text tokens between documents. For 2.7
million training tokens an n-gram takes less than a second; the two xz passes over 12 MB
take ten.
"""

import lzma
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from lostjax.analysis.ngrams import predict_ngram


class TextBaselines(NamedTuple):
    """Baselines in bits per byte of a held-out text."""

    uniform: float
    """All tokens equally likely."""
    xz: float
    """`xz -9` of the held-out text alone."""
    xz_given_train: float
    """Increase of the size under `xz -9` if H follows the training text."""
    bigram: float
    """Kneser-Ney of order 2."""
    trigram_on_bigram: float
    """Order 3 interpolated with that bigram model: both count occurrences."""
    trigram: float
    """Kneser-Ney of order 3."""


def score_text(
    train: Sequence[str],
    heldout: Sequence[str],
    *,
    train_tokens: Integer[np.ndarray, " N"],
    heldout_tokens: Integer[np.ndarray, " M"],
    vocab_size: int,
) -> TextBaselines:
    """Compute all baselines.

    Args:
      train: training documents.
      heldout: held-out documents.
      train_tokens: token ids (N,) of the training documents as one stream, with
        end-of-text tokens between and around the documents.
      heldout_tokens: the same for the held-out documents, (M,); all tokens except the
        first are predicted.
      vocab_size: V; ids lie in [0, V).

    Returns:
      Bits per UTF-8 byte of the held-out documents.

    Raises:
      ValueError: if there is no held-out text, there are fewer than 2 held-out tokens,
        or an id is outside the vocabulary.
    """
    train_bytes = "".join(train).encode("utf-8")
    heldout_bytes = "".join(heldout).encode("utf-8")
    # Bytes of the original text, so that tokenizers can be compared.
    n_bytes = len(heldout_bytes)
    if n_bytes == 0 or heldout_tokens.size < 2:
        raise ValueError("heldout: must contain text")

    def ngram(order: int, occurrences_from: int) -> float:
        p_M = predict_ngram(
            train_tokens,
            heldout_tokens,
            order=order,
            vocab_size=vocab_size,
            occurrences_from=occurrences_from,
        )
        return float(-np.log2(p_M).sum()) / n_bytes

    # lzma releases the global interpreter lock: the passes and the n-grams overlap.
    texts = [train_bytes + heldout_bytes, train_bytes, heldout_bytes]
    with ThreadPoolExecutor(len(texts)) as pool:
        sizes = pool.map(_xz_bytes, texts)
        bigram, mixed, trigram = ngram(2, 2), ngram(3, 2), ngram(3, 3)
        both, alone, held = sizes
    return TextBaselines(
        uniform=float(np.log2(vocab_size)) * (heldout_tokens.size - 1) / n_bytes,
        xz=8 * held / n_bytes,
        xz_given_train=8 * (both - alone) / n_bytes,
        bigram=bigram,
        trigram_on_bigram=mixed,
        trigram=trigram,
    )


def _xz_bytes(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))
