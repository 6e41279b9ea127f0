"""Attribution by replacing tokens: one at a time, or many at random.

    occlusion    s_j = p(y | x) - p(y | x with token j replaced)
    LIME         s = argmin_s sum_z k(z) (p(y | x_z) - b - s . z)^2 + ridge |s|^2

z in {0, 1}^T keeps the tokens of x that it has a 1 for. The number of replaced tokens
is uniform on 1..T. The weight k(z) = exp(-d^2 / width^2) falls with the cosine distance
d of z from ones, 1 - sqrt(kept / T).

Occlusion: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
2013, arXiv:1311.2901. LIME: Ribeiro, Singh and Guestrin, "Why Should I Trust You?:
Explaining the Predictions of Any Classifier", 2016, arXiv:1602.04938; theirs removes
words, here tokens are replaced by one id, so that the length stays.
"""

import jax
import jax.numpy as jnp

from lostjax.analysis.attribution.probabilities import (
    TokenProbs,
    read_prompt,
    target_probs,
)
from lostjax.typing import Array, Float, Int, Key


def occlusion_scores(
    token_probs_fn: TokenProbs,
    tokens_T: Int[Array, "T"],
    *,
    target: Int[Array, ""] | int,
    replacement: int,
    batch_size: int = 16,
) -> Float[Array, "T"]:
    """Compute how far the target's probability falls without each token.

    Costs T + 1 forward passes.

    Args:
      token_probs_fn: maps token ids (B, T) to the probabilities (B, V) of the token
        after each row.
      tokens_T: the prompt (T,), T >= 2.
      target: token id whose prediction is explained, in [0, V).
      replacement: token id that takes the place of each token in turn.
      batch_size: rows per forward pass, 1 or more.

    Returns:
      Scores (T,), in [-1, 1]; 0 for a token that is the replacement.

    Raises:
      ValueError: if an argument is out of its range, or the probabilities of the prompt
        are known and do not sum to 1.
    """
    _check_at_least("batch_size", batch_size, 1)
    T = tokens_T.shape[0]
    whole_V = read_prompt(token_probs_fn, tokens_T, target=target)
    without_TT = jnp.where(jnp.eye(T, dtype=bool), replacement, tokens_T)
    probs_T = target_probs(
        token_probs_fn, without_TT, target=target, batch_size=batch_size
    )
    return whole_V[target] - probs_T


def lime_scores(
    token_probs_fn: TokenProbs,
    tokens_T: Int[Array, "T"],
    *,
    target: Int[Array, ""] | int,
    replacement: int,
    key: Key,
    n_samples: int = 256,
    kernel_width: float = 0.25,
    ridge: float = 1e-3,
    batch_size: int = 16,
) -> Float[Array, "T"]:
    """Fit a linear model of the target's probability to which tokens are kept.

    Args:
      token_probs_fn: maps token ids (B, T) to the probabilities (B, V) of the token
        after each row.
      tokens_T: the prompt (T,), T >= 2.
      target: token id whose prediction is explained, in [0, V).
      replacement: token id that takes the place of tokens that are not kept.
      key: random key.
      n_samples: number of random rows, 2 or more, the number of forward passes beside
        one for the prompt itself. Several for each token are needed.
      kernel_width: width of the weights in cosine distance, above 0.
      ridge: penalty of the coefficients, relative to the sum of the weights, above 0.
      batch_size: rows per forward pass, 1 or more.

    Returns:
      Coefficients (T,), in units of probability.

    Raises:
      ValueError: if an argument is out of its range, or the probabilities of the prompt
        are known and do not sum to 1.
    """
    _check_at_least("batch_size", batch_size, 1)
    _check_at_least("n_samples", n_samples, 2)
    for name, value in (("kernel_width", kernel_width), ("ridge", ridge)):
        if not value > 0:
            raise ValueError(f"{name}={value}: must be above 0")
    T = tokens_T.shape[0]
    whole_V = read_prompt(token_probs_fn, tokens_T, target=target)
    z_ST = _draw_masks(key, n_samples, T)
    tried_ST = jnp.where(z_ST, tokens_T, replacement)
    probs_S = target_probs(
        token_probs_fn, tried_ST, target=target, batch_size=batch_size
    )
    # The prompt itself is the point that the model is fitted around.
    z_ST = jnp.concatenate([jnp.ones((1, T)), z_ST.astype(jnp.float32)])
    y_S = jnp.append(whole_V[target], probs_S)
    distance_S = 1 - jnp.sqrt(z_ST.mean(axis=1))
    weight_S = jnp.exp(-((distance_S / kernel_width) ** 2))
    weight_S /= weight_S.sum()
    # Centre by the weighted means: the intercept is not penalised.
    z_ST -= weight_S @ z_ST
    y_S -= weight_S @ y_S
    gram_TT = (weight_S[:, None] * z_ST).T @ z_ST + ridge * jnp.eye(T)
    scores_T: Array = jnp.linalg.solve(gram_TT, (weight_S * y_S) @ z_ST)
    return scores_T


def _draw_masks(key: Key, n_samples: int, T: int) -> Array:
    """Draw which tokens are kept: first how many, then which."""
    count_key, order_key = jax.random.split(key)
    n_replaced_S = jax.random.randint(count_key, (n_samples, 1), 1, T + 1)
    random_ST = jax.random.uniform(order_key, (n_samples, T))
    rank_ST = jnp.argsort(jnp.argsort(random_ST, axis=1), axis=1)
    return rank_ST >= n_replaced_S


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value}: must be {least} or more")
