"""Replacements for the tokens of a prompt, never the token itself.

    uniform    p(w) = 1 / (V - 1)
    unigram    p(w) proportional to c(w) + 1
    n-gram     p(w) proportional to p(w | left) p(right | w)      bigrams of a text

A sampler is called as `sampler(key, tokens_T)`, and returns one replacement for each
position. The authors of ReAGent draw with a masked language model, or among tokens of
the same part of speech; their replacement can be the token itself, which makes the step
worthless. `reagent` takes any function of this signature.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from lostjax.typing import Array, Float, Key

Sampler = Callable[[Key, Array], Array]
"""`sampler(key, tokens_T)` returns token ids (T,)."""


def uniform_sampler(vocab_size: int) -> Sampler:
    """Build a sampler of all other tokens with equal probability.

    Args:
      vocab_size: V, at least 2.

    Raises:
      ValueError: if there are fewer than two tokens.
    """
    if vocab_size < 2:
        raise ValueError(f"vocab_size={vocab_size}: must be 2 or more")

    def sample(key: Key, tokens_T: Array) -> Array:
        return (tokens_T + jax.random.randint(key, tokens_T.shape, 1, vocab_size)) % (
            vocab_size
        )

    return sample


def unigram_sampler(
    train_tokens: Integer[np.ndarray, " N"], *, vocab_size: int
) -> Sampler:
    """Build a sampler of other tokens by their frequency in a text.

    Args:
      train_tokens: token ids (N,) to count, each once more than it occurs.
      vocab_size: V, at least 2.

    Raises:
      ValueError: if an id is outside the vocabulary, or there are fewer than two.
    """
    _check(train_tokens, vocab_size)
    share_V = _unigram(train_tokens, vocab_size)
    ends_V = jnp.asarray(np.cumsum(share_V), jnp.float32)

    def sample(key: Key, tokens_T: Array) -> Array:
        # Draw from the distribution with the own share cut out of it.
        own_T = ends_V[tokens_T]
        before_T = jnp.where(tokens_T > 0, ends_V[tokens_T - 1], 0.0)
        u_T = jax.random.uniform(key, tokens_T.shape) * (1 - (own_T - before_T))
        u_T = jnp.where(u_T >= before_T, u_T + own_T - before_T, u_T)
        return _other(jnp.searchsorted(ends_V, u_T, side="right"), tokens_T, vocab_size)

    return sample


def ngram_sampler(
    train_tokens: Integer[np.ndarray, " N"],
    tokens_T: Integer[np.ndarray, " T"],
    *,
    vocab_size: int,
    smoothing: float = 1.0,
) -> Sampler:
    """Build a sampler of other tokens that fit between both neighbours in a prompt.

    Bigram probabilities are (c(l w) + k p(w)) / (c(l) + k), of the unigram p. The first
    token has no left neighbour, and the last no right one.

    Args:
      train_tokens: token ids (N,) to count.
      tokens_T: the prompt (T,), T >= 2; the sampler serves this prompt alone.
      vocab_size: V, at least 2; the sampler keeps T V numbers.
      smoothing: k, above 0.

    Raises:
      ValueError: if an id is outside the vocabulary, there are fewer than two, or k is
        not positive.
    """
    ends_TV = fit_neighbours(
        train_tokens, tokens_T, vocab_size=vocab_size, smoothing=smoothing
    )
    return table_sampler(jnp.asarray(ends_TV))


def fit_neighbours(
    train_tokens: Integer[np.ndarray, " N"],
    tokens_T: Integer[np.ndarray, " T"],
    *,
    vocab_size: int,
    smoothing: float = 1.0,
) -> np.ndarray:
    """Compute the table of `ngram_sampler`.

    Args:
      train_tokens: token ids (N,) to count.
      tokens_T: the prompt (T,), T >= 2.
      vocab_size: V, at least 2.
      smoothing: k, above 0.

    Returns:
      Cumulated probabilities (T, V) of the replacements, float32.

    Raises:
      ValueError: as `ngram_sampler`.
    """
    _check(train_tokens, vocab_size)
    prompt_T = np.asarray(tokens_T).astype(np.int64)
    _check(prompt_T, vocab_size)
    if not smoothing > 0:
        raise ValueError(f"smoothing={smoothing}: must be above 0")
    share_V = _unigram(train_tokens, vocab_size)
    stream = train_tokens.astype(np.int64)
    count_V = np.bincount(stream, minlength=vocab_size)
    fit_TV = np.tile(share_V, (len(prompt_T), 1))
    for t, token in enumerate(prompt_T):
        if t:
            left = prompt_T[t - 1]
            after_V = np.bincount(stream[1:][stream[:-1] == left], minlength=vocab_size)
            fit_TV[t] = (after_V + smoothing * share_V) / (count_V[left] + smoothing)
        if t + 1 < len(prompt_T):
            right = prompt_T[t + 1]
            before_V = np.bincount(
                stream[:-1][stream[1:] == right], minlength=vocab_size
            )
            fit_TV[t] *= (before_V + smoothing * share_V[right]) / (count_V + smoothing)
        fit_TV[t, token] = 0.0
    ends = np.cumsum(fit_TV, axis=1)
    ends_TV: np.ndarray = (ends / ends[:, -1:]).astype(np.float32)
    return ends_TV


def table_sampler(ends_TV: Float[Array, "T V"]) -> Sampler:
    """Build a sampler of a table, which may be traced, such as one prompt's of many.

    Args:
      ends_TV: cumulated probabilities (T, V) of the replacements.
    """

    def sample(key: Key, tokens_T: Array) -> Array:
        u_T = jax.random.uniform(key, tokens_T.shape)
        drawn_T = jax.vmap(lambda e, u: jnp.searchsorted(e, u, side="right"))(
            ends_TV, u_T
        )
        return _other(drawn_T, tokens_T, ends_TV.shape[1])

    return sample


def _unigram(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    count_V = np.bincount(tokens, minlength=vocab_size) + 1.0
    share_V: np.ndarray = count_V / count_V.sum()
    return share_V


def _other(drawn_T: Array, tokens_T: Array, vocab_size: int) -> Array:
    """Move a draw that rounding put at the token itself, or past the end."""
    drawn_T = jnp.minimum(drawn_T, vocab_size - 1)
    moved_T = jnp.where(drawn_T == tokens_T, (drawn_T + 1) % vocab_size, drawn_T)
    return moved_T.astype(tokens_T.dtype)


def _check(tokens: np.ndarray, vocab_size: int) -> None:
    if vocab_size < 2:
        raise ValueError(f"vocab_size={vocab_size}: must be 2 or more")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise ValueError(f"train_tokens: ids must lie in [0, {vocab_size})")
