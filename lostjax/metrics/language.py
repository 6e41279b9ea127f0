"""Scores of a language model, from sums over a whole text.

    perplexity    = exp(nats / tokens)
    bits_per_byte = nats / (ln 2 x UTF-8 bytes)

Both take sums, so that batches of unequal size add up. Sum in float64 on the host: a
float32 sum over a million tokens loses digits. Bits per byte do not depend on the
tokenizer: a uniform model over V tokens has log2(V) x tokens / bytes.

The share of tokens that a model predicts is `classification.accuracy`, with the loss
weights of the tokens as its weights.
"""

import math

LARGEST_EXPONENT = 709
"""exp of more overflows a float64."""


def perplexity(nats: float | int, *, tokens: float | int) -> float:
    """Compute the exponential of the mean cross entropy.

    Args:
      nats: cross entropy summed over the text, 0 or positive; NaN returns NaN.
      tokens: number of tokens predicted (or their summed weights), positive.

    Returns:
      At least 1: a uniform model over V tokens has V. Infinity if it overflows.

    Raises:
      ValueError: an argument lies outside its range.
    """
    _require_sums(nats, tokens=tokens)
    mean = nats / tokens
    return math.inf if mean > LARGEST_EXPONENT else math.exp(mean)


def bits_per_byte(nats: float | int, *, n_bytes: float | int) -> float:
    """Compute the bits that a coder driven by the model needs for a byte of text.

    Args:
      nats: cross entropy summed over the text, 0 or positive; NaN returns NaN.
      n_bytes: number of UTF-8 bytes of the text, positive.

    Returns:
      Bits for each byte, 0 or positive.

    Raises:
      ValueError: an argument lies outside its range.
    """
    _require_sums(nats, n_bytes=n_bytes)
    return nats / (math.log(2) * n_bytes)


def _require_sums(nats: float | int, **counts: float | int) -> None:
    if nats < 0:
        raise ValueError(f"nats={nats}: must be 0 or positive")
    for name, count in counts.items():
        if not (count > 0 and math.isfinite(count)):
            raise ValueError(f"{name}={count}: must be positive and finite")
