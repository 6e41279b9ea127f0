"""Scores of an order: whether what is true has higher scores than what is not.

    ROC AUC           = P(score of a positive > score of a negative), ties count half
    average precision = mean over positives of  positives at or above / all at or above

The first is the area under the receiver operating characteristic, and the
Mann-Whitney U over the number of pairs; of a membership attack it is .5 if members
cannot be told from others. The second is the area under the steps of the curve of
precision over recall, without interpolation; examples of equal score enter together.
For guesses it is the share of positives: it suits rare ones.

Definitions are scikit-learn's, with one exception: without a positive (or, for the ROC
AUC, a negative) there is no value, and NaN is returned. A NaN among the scores returns
NaN. Functions are pure and run under `jax.jit` and `jax.vmap`. Scores are compared as
float32, or float64 if jax has it enabled.

Cost: a sort and two searches.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import (
    nan_if,
    require_binary,
    require_examples,
    require_shape,
)
from lostjax.typing import Array, Bool, Float, Int


def roc_auc(
    scores_B: Float[ArrayLike, "B"],
    labels_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
) -> Float[Array, ""]:
    """Compute the probability that a positive has a higher score than a negative.

    Args:
      scores_B: any numbers (B,), higher for what is held to be positive; B >= 1.
      labels_B: 1 for positives and 0 for negatives, or booleans, (B,).

    Returns:
      In [0, 1], float32: .5 for guesses or a constant; NaN if positives or negatives
      are missing.

    Raises:
      ValueError: no example, shapes that differ, or a label that is neither 0 nor 1.
    """
    scores_B, positive_B = _ready(scores_B, labels_B)
    below_B, upto_B = _count_around(scores_B, ~positive_B)
    # Shares first, then their mean: differences of rank sums lose digits in float32.
    won_B = (below_B + upto_B) / (2 * jnp.sum(~positive_B))
    return _mean_over(positive_B, won_B, scores_B)


def average_precision(
    scores_B: Float[ArrayLike, "B"],
    labels_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
) -> Float[Array, ""]:
    """Compute the mean precision at the places of the positives.

    Args:
      scores_B: any numbers (B,), higher for what is held to be positive; B >= 1.
      labels_B: 1 for positives and 0 for negatives, or booleans, (B,).

    Returns:
      In (0, 1], float32; NaN if there are no positives.

    Raises:
      ValueError: no example, shapes that differ, or a label that is neither 0 nor 1.
    """
    scores_B, positive_B = _ready(scores_B, labels_B)
    below_B, _ = _count_around(scores_B, positive_B)
    all_below_B, _ = _count_around(scores_B, jnp.ones_like(positive_B))
    precision_B = (jnp.sum(positive_B) - below_B) / (len(scores_B) - all_below_B)
    return _mean_over(positive_B, precision_B, scores_B)


def _ready(scores_B: ArrayLike, labels_B: ArrayLike) -> tuple[jax.Array, jax.Array]:
    scores_B, labels_B = jnp.asarray(scores_B), jnp.asarray(labels_B)
    require_examples("scores_B", scores_B)
    require_shape("labels_B", labels_B, scores_B.shape)
    require_binary("labels_B", labels_B)
    return scores_B, labels_B == 1


def _count_around(
    scores_B: jax.Array, counts_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Count, for each score, those that count below it, and those not above it."""
    order_B = jnp.argsort(scores_B)
    sums = jnp.append(0, jnp.cumsum(counts_B[order_B]))
    sorted_B = scores_B[order_B]
    below_B = sums[jnp.searchsorted(sorted_B, scores_B, side="left")]
    return below_B, sums[jnp.searchsorted(sorted_B, scores_B, side="right")]


def _mean_over(
    positive_B: jax.Array, values_B: jax.Array, scores_B: jax.Array
) -> jax.Array:
    mean = jnp.mean(values_B, where=positive_B)  # NaN without positives
    return nan_if(jnp.any(jnp.isnan(scores_B)), mean)
