"""Scores of logits: how often the right class is first, and how far to trust them.

    accuracy                   = mean [argmax_v z_v = label]
    error rate                 = 1 - accuracy
    top-k accuracy             = mean [fewer than k other classes have z_v >= z_label]
    Brier score                = mean sum_v (p_v - [v = label])^2,  p = softmax(z)
    expected calibration error = sum_b |B_b| / B  |accuracy of B_b - confidence of B_b|

with examples put into bins B_b of equal width by their confidence max_v p_v. Brier,
"Verification of forecasts expressed in terms of probability", 1950. Naeini et al.,
"Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015, and Guo et al.,
"On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, equation 3.

Every function takes logits or log-probabilities of any leading shape, weights for
padding, and returns NaN if an example that counts has a NaN among its logits: a model
that diverged shows as one. Ties of logits go to the lower class, as `jnp.argmax` has
it, so that a model that answers all alike is not perfect. Top-k accuracy is stricter,
because it compares models some of which have few distinct logits: a tie or a NaN counts
as a miss. Functions are pure and run under `jax.jit` and `jax.vmap`; a traced label
outside [0, V) is never right.

Cost: a few passes over the logits.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import (
    nan_if,
    require_classes,
    require_examples,
    require_shape,
    require_weights,
)
from lostjax.typing import Array, Bool, Float, Int


def accuracy(
    logits: Float[ArrayLike, "*batch V"],
    labels: Int[ArrayLike, "*batch"],
    *,
    weights: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Compute the share of examples whose largest logit is that of their label.

    Args:
      logits: (..., V), at least one example; tokens of a text are examples too.
      labels: classes in [0, V), shape (...).
      weights: how much each example counts, 0 or positive, shape (...); an example at
        0 is left out, whatever its logits are. None for all alike.

    Returns:
      In [0, 1], float32; NaN if all weights are 0.

    Raises:
      ValueError: no example, shapes that differ, or a value outside its range.
    """
    logits, labels, weights = _ready(logits, labels, weights)
    return _mean(rank_labels(logits, labels) < 1, logits, weights)


def error_rate(
    logits: Float[ArrayLike, "*batch V"],
    labels: Int[ArrayLike, "*batch"],
    *,
    weights: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Compute the share of examples whose largest logit is not that of their label.

    Args:
      logits: (..., V), at least one example.
      labels: classes in [0, V), shape (...).
      weights: how much each example counts; see `accuracy`.

    Returns:
      In [0, 1], float32; NaN if all weights are 0.

    Raises:
      ValueError: as `accuracy`.
    """
    logits, labels, weights = _ready(logits, labels, weights)
    return _mean(rank_labels(logits, labels) >= 1, logits, weights)


def top_k_accuracy(
    logits: Float[ArrayLike, "*batch V"],
    labels: Int[ArrayLike, "*batch"],
    *,
    k: int,
    weights: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Compute the share of examples whose label is among the k largest logits.

    A label is not if k or more other classes have a logit as large or NaN, nor if its
    own is NaN.

    Args:
      logits: (..., V), at least one example.
      labels: classes in [0, V), shape (...).
      k: from 1 to V.
      weights: how much each example counts; see `accuracy`.

    Returns:
      In [0, 1], float32; NaN if all weights are 0.

    Raises:
      ValueError: as `accuracy`, or k outside its range.
    """
    logits, labels, weights = _ready(logits, labels, weights)
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k={k}: must lie in [1, {logits.shape[-1]}]")
    hits = is_among_largest(logits, labels, k=k)
    total = jnp.sum(jnp.where(weights > 0, weights * hits, 0.0))
    return total / jnp.sum(weights)


def brier_score(
    logits: Float[ArrayLike, "*batch V"],
    labels: Int[ArrayLike, "*batch"],
    *,
    weights: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Compute the mean squared distance of the probabilities to the one-hot label.

    Args:
      logits: (..., V), at least one example; the softmax is taken here, in float32.
      labels: classes in [0, V), shape (...).
      weights: how much each example counts; see `accuracy`.

    Returns:
      In [0, 2], float32, less is better; NaN if all weights are 0. For two classes it
      is twice what scikit-learn returns by default.

    Raises:
      ValueError: as `accuracy`.
    """
    logits, labels, weights = _ready(logits, labels, weights)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    hot = jnp.arange(logits.shape[-1]) == labels[..., None]
    return _mean(jnp.sum((probabilities - hot) ** 2, axis=-1), logits, weights)


def expected_calibration_error(
    logits: Float[ArrayLike, "*batch V"],
    labels: Int[ArrayLike, "*batch"],
    *,
    n_bins: int = 15,
    weights: Float[ArrayLike, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Compute how far confidence and accuracy differ, in the mean over bins.

    Args:
      logits: (..., V), at least one example; the softmax is taken here, in float32.
      labels: classes in [0, V), shape (...).
      n_bins: number of bins of equal width over (0, 1], at least 1; a confidence at
        an edge belongs to the lower bin.
      weights: how much each example counts; see `accuracy`.

    Returns:
      In [0, 1], float32, less is better; NaN if all weights are 0. It is a biased
      estimate: with few examples a bin it is above 0 for a calibrated model too.

    Raises:
      ValueError: as `accuracy`, or n_bins is below 1.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins}: must be at least 1")
    logits, labels, weights = _ready(logits, labels, weights)
    gaps = calibration_gaps(logits, labels, n_bins=n_bins, weights=weights)
    return _divide(jnp.sum(jnp.abs(gaps)), logits, weights)


def calibration_gaps(
    logits: Float[Array, "*batch V"],
    labels: Int[Array, "*batch"],
    *,
    n_bins: int,
    weights: Float[Array, "*batch"],
) -> Float[Array, " N"]:
    """Sum right - confidence over the examples of each bin of confidence.

    The sums of batches add up; those of a whole set, their absolute values summed and
    divided by the weights, are the `expected_calibration_error`.

    Args:
      logits: (..., V).
      labels: classes in [0, V), shape (...).
      n_bins: number of bins N of equal width over (0, 1], at least 1.
      weights: how much each example counts, shape (...).

    Returns:
      Sums (N,), float32.
    """
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), axis=-1)
    edges = jnp.linspace(0.0, 1.0, n_bins + 1)[1:-1]
    bins = jnp.searchsorted(edges, confidence, side="left")
    right = rank_labels(logits, labels) < 1
    # NaNs of examples that do not count must not reach the sums.
    gaps = jnp.where(weights > 0, weights * (right - confidence), 0.0)
    return jax.ops.segment_sum(gaps.ravel(), bins.ravel(), num_segments=n_bins)


def rank_labels(
    logits: Float[Array, "*batch V"], labels: Int[Array, "*batch"]
) -> Int[Array, "*batch"]:
    """Count the classes before each label, ties in the order of classes.

    Args:
      logits: (..., V).
      labels: classes in [0, V), shape (...).

    Returns:
      Ranks (...): 0 for the largest logit, V for a label that is no class.
    """
    ids = jnp.arange(logits.shape[-1])
    hot = ids == labels[..., None]
    own = jnp.max(logits, axis=-1, where=hot, initial=-jnp.inf)[..., None]
    before = (logits > own) | ((logits == own) & (ids < labels[..., None]))
    # A label that is no class has no place.
    known = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(known, jnp.sum(before, axis=-1), logits.shape[-1])


def is_among_largest(
    logits: Float[Array, "*batch V"], labels: Int[Array, "*batch"], *, k: int
) -> Bool[Array, "*batch"]:
    """Return which labels have fewer than k rivals; see `top_k_accuracy`.

    Args:
      logits: (..., V).
      labels: classes in [0, V), shape (...); others are among no number of classes.
      k: from 1 to V.
    """
    hot = jnp.arange(logits.shape[-1]) == labels[..., None]
    own = jnp.max(logits, axis=-1, where=hot, initial=-jnp.inf)[..., None]
    rivals = jnp.sum(~(logits < own) & ~hot, axis=-1)
    return (rivals < k) & jnp.any(hot & ~jnp.isnan(own), axis=-1)


def _ready(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check the arguments; return them as arrays, with a weight for each example."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not logits.ndim:
        raise ValueError("logits: a scalar, must have an axis of classes")
    # A single example without a batch axis is one example.
    logits, labels = jnp.atleast_2d(logits), jnp.atleast_1d(labels)
    require_examples("logits", logits)
    require_shape("labels", labels, logits.shape[:-1])
    require_classes("labels", labels, logits.shape[-1])
    if weights is None:
        return logits, labels, jnp.ones(labels.shape, jnp.float32)
    weights = jnp.atleast_1d(jnp.asarray(weights, jnp.float32))
    require_shape("weights", weights, labels.shape)
    require_weights("weights", weights)
    return logits, labels, weights


def _mean(values: jax.Array, logits: jax.Array, weights: jax.Array) -> jax.Array:
    total = jnp.sum(jnp.where(weights > 0, weights * values, 0.0))
    return _divide(total, logits, weights)


def _divide(total: jax.Array, logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Divide by the weights; NaN if logits that count hold one, or nothing counts."""
    broken = jnp.any(jnp.any(jnp.isnan(logits), axis=-1) & (weights > 0))
    return nan_if(broken, total / jnp.sum(weights))
