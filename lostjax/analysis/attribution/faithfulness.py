"""Faithfulness of scores: what happens to the prediction if they mask the embeddings.

    x~ = x * Bernoulli(q), an entry each          q_j = s_j, or 1 - s_j
    H  = sqrt(sum_w (sqrt p_w - sqrt p~_w)^2 / 2)          in [0, 1]
    sufficiency        S = 1 - H(p, p~)   of q = s         kept where important
    comprehensiveness  C = H(p, p~)       of q = 1 - s     masked where important
    normalised         max(0, S - S_0) / (1 - S_0)  and  C / (1 - S_0)

S_0 is the sufficiency of nothing: all embeddings are 0. Higher is more faithful.

Zhao and Aletras, "Incorporating Attribution Importance for Improving Faithfulness
Metrics", 2023, arXiv:2305.10496, as Zhao and Shan use them for ReAGent (2024,
arXiv:2402.00794). Their code leaves out the root of H, which then reaches sqrt 2 and is
no distance; here it is Hellinger's. They mask once; here several masks are averaged.
How much is masked changes every measure: scores that sum to 1 mask nearly every entry
of a long prompt, and equal scores that are divided by the largest mask none. Compare
methods by `rank_scores`, with which all of them mask the same share.
"""

import jax
import jax.numpy as jnp

from lostjax.analysis.attribution.gradients import LogitsFn
from lostjax.typing import Array, Float, Key


def rank_scores(scores_T: Float[Array, "T"]) -> Float[Array, "T"]:
    """Turn scores into importance by their order, the same mass for every method.

    Args:
      scores_T: scores of any method (T,); the sign does not count.

    Returns:
      Importance (T,): 0 for the smallest, 1 for the largest, evenly spaced between
      them; equal scores share the mean of their places, and NaN is the smallest.
    """
    size_T = jnp.nan_to_num(jnp.abs(scores_T), nan=-1.0)
    below_T = jnp.sum(size_T[:, None] > size_T, axis=1)
    equal_T = jnp.sum(size_T[:, None] == size_T, axis=1)
    # A single score has no order: it is in the middle of nothing.
    last = max(len(scores_T) - 1, 1)
    return (below_T + (equal_T - 1) / 2) / last


def soft_sufficiency(
    logits_from_embeddings: LogitsFn,
    x_TD: Float[Array, "T D"],
    *,
    importance_T: Float[Array, "T"],
    key: Key,
    n_samples: int = 8,
) -> Float[Array, ""]:
    """Compute how much of a prediction the important tokens alone keep.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D).
      importance_T: probability (T,) that an entry of a token's embedding is kept, in
        [0, 1].
      key: random key.
      n_samples: number of random masks, 1 or more.

    Returns:
      The mean of 1 - H, in [0, 1].

    Raises:
      ValueError: if an importance is known and outside [0, 1], their number is not that
        of the embeddings, or there is no sample.
    """
    _check(x_TD, importance_T, n_samples)
    return 1 - _masked_distance(
        logits_from_embeddings, x_TD, importance_T, key, n_samples
    )


def soft_comprehensiveness(
    logits_from_embeddings: LogitsFn,
    x_TD: Float[Array, "T D"],
    *,
    importance_T: Float[Array, "T"],
    key: Key,
    n_samples: int = 8,
) -> Float[Array, ""]:
    """Compute how much a prediction changes without the important tokens.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D).
      importance_T: probability (T,) that an entry of a token's embedding is masked, in
        [0, 1].
      key: random key.
      n_samples: number of random masks, 1 or more.

    Returns:
      The mean of H, in [0, 1].

    Raises:
      ValueError: see `soft_sufficiency`.
    """
    _check(x_TD, importance_T, n_samples)
    return _masked_distance(
        logits_from_embeddings, x_TD, 1 - importance_T, key, n_samples
    )


def normalised_sufficiency(
    logits_from_embeddings: LogitsFn,
    x_TD: Float[Array, "T D"],
    *,
    importance_T: Float[Array, "T"],
    key: Key,
    n_samples: int = 8,
) -> Float[Array, ""]:
    """Compute the sufficiency above that of no embeddings at all.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D).
      importance_T: probability (T,) that an entry of a token's embedding is kept, in
        [0, 1].
      key: random key.
      n_samples: number of random masks, 1 or more.

    Returns:
      max(0, S - S_0) / (1 - S_0), in [0, 1]; NaN if the model ignores its embeddings.

    Raises:
      ValueError: see `soft_sufficiency`.
    """
    found = soft_sufficiency(
        logits_from_embeddings,
        x_TD,
        importance_T=importance_T,
        key=key,
        n_samples=n_samples,
    )
    lost = _distance_of_nothing(logits_from_embeddings, x_TD)
    return _divide(jnp.maximum(0.0, found - (1 - lost)), lost)


def normalised_comprehensiveness(
    logits_from_embeddings: LogitsFn,
    x_TD: Float[Array, "T D"],
    *,
    importance_T: Float[Array, "T"],
    key: Key,
    n_samples: int = 8,
) -> Float[Array, ""]:
    """Compute the comprehensiveness relative to that of masking everything.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D).
      importance_T: probability (T,) that an entry of a token's embedding is masked, in
        [0, 1].
      key: random key.
      n_samples: number of random masks, 1 or more.

    Returns:
      C / (1 - S_0), 0 or more, about 1 for masking everything; NaN if the model ignores
      its embeddings.

    Raises:
      ValueError: see `soft_sufficiency`.
    """
    found = soft_comprehensiveness(
        logits_from_embeddings,
        x_TD,
        importance_T=importance_T,
        key=key,
        n_samples=n_samples,
    )
    return _divide(found, _distance_of_nothing(logits_from_embeddings, x_TD))


def _distance_of_nothing(logits_fn: LogitsFn, x_TD: Array) -> Array:
    return _hellinger(logits_fn(x_TD), logits_fn(jnp.zeros_like(x_TD)))


def _divide(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), jnp.nan)


def _check(x_TD: Array, importance_T: Array, n_samples: int) -> None:
    if importance_T.shape != x_TD.shape[:1]:
        raise ValueError(
            f"importance_T: shape {importance_T.shape}, must be {x_TD.shape[:1]}"
        )
    if n_samples < 1:
        raise ValueError(f"n_samples={n_samples}: must be 1 or more")
    if isinstance(importance_T, jax.core.Tracer):
        return
    if not bool(jnp.all((importance_T >= 0) & (importance_T <= 1))):
        raise ValueError(
            "importance_T: must lie in [0, 1]; `rank_scores` brings scores there"
        )


def _masked_distance(
    logits_fn: LogitsFn, x_TD: Array, kept_T: Array, key: Key, n_samples: int
) -> Array:
    whole_V = logits_fn(x_TD)

    def distance(key: Key) -> Array:
        kept_TD = jax.random.bernoulli(key, kept_T[:, None], x_TD.shape)
        return _hellinger(whole_V, logits_fn(x_TD * kept_TD))

    found: Array = jax.lax.map(distance, jax.random.split(key, n_samples)).mean()
    return found


def _hellinger(logits_V: Array, other_V: Array) -> Array:
    # Half the logarithm is the root: no root of 0, whose gradient is infinite.
    roots = (
        jnp.exp(jax.nn.log_softmax(x.astype(jnp.float32)) / 2)
        for x in (logits_V, other_V)
    )
    one, two = roots
    distance: Array = jnp.linalg.norm(one - two) / jnp.sqrt(2.0)
    return distance
