"""Dice and Tversky losses: overlap of a prediction with rare positives.

    dice per example  = 1 - (2 q y + g) / (q^2 + y^2 + g)
    dice of a set     = 1 - (2 sum q y + g) / (sum q^2 + sum y^2 + g)
    Tversky of a set  = 1 - (sum p y + g)
                            / (sum p y + a sum p (1 - y) + b sum (1 - p) y + g)
    q                 = (1 - p)^alpha p                            self-adjusting

with p the probability of the positive class, y its label in {0, 1}, g the smoothing.
With hard predictions, no squares and g = 0, the dice loss of a set is 1 - F1, so that
easy negatives do not dominate. Li et al., "Dice Loss for Data-imbalanced NLP Tasks",
2019, arXiv:1911.02855, after Milletari et al., "V-Net: Fully Convolutional Neural
Networks for Volumetric Medical Image Segmentation", 2016, arXiv:1606.04797 (squares),
and Salehi et al., "Tversky loss function for image segmentation using 3D fully
convolutional deep networks", 2017, arXiv:1706.05721.

Two properties of the formulas matter in use. q is largest at p = 1 / (1 + alpha), so a
positive is driven to that probability and not to 1 (0.99 at alpha = 0.01, 0.5 at
alpha = 1); `stop_gradient_weight` treats (1 - p)^alpha as a constant, which removes
this optimum. Without squares and with g = 1 the slope near p = 0 is 1 for a negative
but 0.75 for a positive, so with rare positives the loss per example can drive all
predictions to 0; squares are therefore the default.

The authors' unsquared loss of classes (github.com/ShannonAI/dice_loss_for_NLP) has its
numerator per example and its denominator over the batch; here both are per example or
both are of the set. A loss of a set split over micro-batches differs from that of the
whole set; under `jax.jit` the set is the global array, under `jax.shard_map` gather it
first.

Cost: one pass over the logits.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import (
    nan_if,
    require_binary,
    require_classes,
    require_not_negative,
    require_shape,
    require_weights,
)
from lostjax.typing import Array, Bool, Float, Int, Scalar

SMALLEST_REST = 1e-7
"""Lower bound of 1 - p in the weight of a class, about float32's resolution at 1."""


def dice_loss(
    logits: Float[Array, "*batch"],
    labels: Int[Array, "*batch"] | Bool[Array, "*batch"],
    *,
    smooth: Scalar = 1.0,
    alpha: Scalar = 0.0,
    squared: bool = True,
    stop_gradient_weight: bool = False,
) -> Float[Array, "*batch"]:
    """Compute one minus the soft dice coefficient of each example alone.

    Args:
      logits: logits of the positive class, any shape; computed in float32.
      labels: 1 for positives and 0 for negatives, or booleans, same shape.
      smooth: g >= 0. At g = 0 an unsquared negative costs 1 at every p above 0.
      alpha: exponent >= 0 of the self-adjusting weight; 0 for none.
      squared: square the terms of the denominator.
      stop_gradient_weight: treat the self-adjusting weight as a constant.

    Returns:
      Losses of the same shape, float32, in [0, 1]; 0 if numerator and denominator are
      both 0.

    Raises:
      ValueError: shapes that differ, a label that is neither 0 nor 1, or a negative
        `smooth` or `alpha`.
    """
    logits = _ready(logits, labels, smooth=smooth, alpha=alpha)
    q = _adjust(
        jax.nn.log_sigmoid(logits),
        jax.nn.log_sigmoid(-logits),
        alpha=alpha,
        stop_gradient_weight=stop_gradient_weight,
    )
    y = labels.astype(jnp.float32)
    return _dice(q * y, jnp.square(q) if squared else q, y, smooth)


def multiclass_dice_loss(
    logits: Float[Array, "*batch V"],
    labels: Int[Array, "*batch"],
    *,
    smooth: Scalar = 1.0,
    alpha: Scalar = 0.0,
    squared: bool = True,
    stop_gradient_weight: bool = False,
) -> Float[Array, "*batch"]:
    """Compute the sum over classes of each class's dice loss against the rest.

    Args:
      logits: shape (..., V); the softmax is taken here, in float32.
      labels: classes in [0, V), shape (...); a traced label outside returns NaN.
      smooth: g >= 0.
      alpha: exponent >= 0 of the self-adjusting weight; 0 for none.
      squared: square the terms of the denominator.
      stop_gradient_weight: treat the self-adjusting weight as a constant.

    Returns:
      Losses of shape (...), float32, in [0, V].

    Raises:
      ValueError: shapes that do not match, a label outside its range, or a negative
        `smooth` or `alpha`.
    """
    require_shape("labels", labels, logits.shape[:-1])
    require_classes("labels", labels, logits.shape[-1])
    require_not_negative("smooth", smooth)
    require_not_negative("alpha", alpha)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # expm1 keeps the digits of a small 1 - p; the floor keeps log and its gradient
    # finite if p rounds to 1.
    log_rest = jnp.log(jnp.maximum(-jnp.expm1(log_p), SMALLEST_REST))
    q = _adjust(log_p, log_rest, alpha=alpha, stop_gradient_weight=stop_gradient_weight)
    hot = (jnp.arange(logits.shape[-1]) == labels[..., None]).astype(jnp.float32)
    by_class = _dice(q * hot, jnp.square(q) if squared else q, hot, smooth)
    known = (labels >= 0) & (labels < logits.shape[-1])
    return nan_if(~known, jnp.sum(by_class, axis=-1))


def set_dice_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."] | Bool[Array, "..."],
    *,
    smooth: Scalar = 1.0,
    alpha: Scalar = 0.0,
    squared: bool = True,
    stop_gradient_weight: bool = False,
    weights: Float[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Compute one minus the soft dice coefficient of a whole set.

    Args:
      logits: logits of the positive class, any shape: the whole array is one set. Use
        `jax.vmap` for a loss per image or per class.
      labels: 1 for positives and 0 for negatives, or booleans, same shape.
      smooth: g >= 0; optax's `binary_dice_loss` counts it twice.
      alpha: exponent >= 0 of the self-adjusting weight; 0 for none.
      squared: square the terms of the denominator.
      stop_gradient_weight: treat the self-adjusting weight as a constant.
      weights: how much each example counts, non-negative, same shape; weight 0 removes
        an example exactly. None for 1 each.

    Returns:
      A float32 scalar in [0, 1]; 0 with a zero gradient if nothing counts.

    Raises:
      ValueError: shapes that differ, a label that is neither 0 nor 1, a weight that is
        negative or not finite, or a negative `smooth` or `alpha`.
    """
    logits = _ready(logits, labels, smooth=smooth, alpha=alpha)
    logits, weights = _remove_weightless(logits, weights)
    q = _adjust(
        jax.nn.log_sigmoid(logits),
        jax.nn.log_sigmoid(-logits),
        alpha=alpha,
        stop_gradient_weight=stop_gradient_weight,
    )
    y = labels.astype(jnp.float32)
    predicted = jnp.sum(weights * (jnp.square(q) if squared else q))
    return _dice(jnp.sum(weights * q * y), predicted, jnp.sum(weights * y), smooth)


def set_tversky_loss(
    logits: Float[Array, "..."],
    labels: Int[Array, "..."] | Bool[Array, "..."],
    *,
    false_positive_cost: Scalar = 0.5,
    false_negative_cost: Scalar = 0.5,
    smooth: Scalar = 1.0,
    weights: Float[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Compute one minus the soft Tversky index of a whole set.

    Args:
      logits: logits of the positive class, any shape: the whole array is one set.
      labels: 1 for positives and 0 for negatives, or booleans, same shape.
      false_positive_cost: a >= 0.
      false_negative_cost: b >= 0; raise it for recall. a = b = 1/2 is the unsquared
        dice loss with twice the smoothing, a = b = 1 the Jaccard loss.
      smooth: g >= 0.
      weights: how much each example counts; see `set_dice_loss`.

    Returns:
      A float32 scalar in [0, 1]; 0 with a zero gradient if nothing counts.

    Raises:
      ValueError: as `set_dice_loss`, or a negative cost.
    """
    require_not_negative("false_positive_cost", false_positive_cost)
    require_not_negative("false_negative_cost", false_negative_cost)
    logits = _ready(logits, labels, smooth=smooth)
    logits, weights = _remove_weightless(logits, weights)
    y = labels.astype(jnp.float32)
    hits = jnp.sum(weights * jax.nn.sigmoid(logits) * y)
    # sigmoid(-z) keeps the digits of 1 - p.
    false_positives = jnp.sum(weights * jax.nn.sigmoid(logits) * (1 - y))
    false_negatives = jnp.sum(weights * jax.nn.sigmoid(-logits) * y)
    misses = (
        false_positive_cost * false_positives + false_negative_cost * false_negatives
    )
    return _dice(hits / 2, misses, hits, smooth)


def _ready(
    logits: jax.Array, labels: jax.Array, *, smooth: Scalar, alpha: Scalar = 0.0
) -> jax.Array:
    """Check what the losses of two classes share; return float32 logits."""
    require_shape("labels", labels, logits.shape)
    require_binary("labels", labels)
    require_not_negative("smooth", smooth)
    require_not_negative("alpha", alpha)
    return logits.astype(jnp.float32)


def _remove_weightless(
    logits: jax.Array, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return logits that are finite at weight 0, and float32 weights."""
    if weights is None:
        return logits, jnp.ones_like(logits)
    require_shape("weights", weights, logits.shape)
    require_weights("weights", weights)
    # Select before multiplying: 0 * NaN is NaN, in the gradient as well.
    return jnp.where(weights == 0, 0.0, logits), weights.astype(jnp.float32)


def _adjust(
    log_p: jax.Array,
    log_rest: jax.Array,
    *,
    alpha: Scalar,
    stop_gradient_weight: bool,
) -> jax.Array:
    """Compute (1 - p)^alpha p from logs: the gradient of a power at 0 is NaN."""
    if isinstance(alpha, int | float) and alpha == 0:
        return jnp.exp(log_p)
    log_weight = alpha * log_rest
    if stop_gradient_weight:
        log_weight = jax.lax.stop_gradient(log_weight)
    return jnp.exp(log_weight + log_p)


def _dice(
    overlap: jax.Array, predicted: jax.Array, actual: jax.Array, smooth: Scalar
) -> jax.Array:
    """Compute 1 - (2 overlap + g) / (predicted + actual + g); 0 for 0 / 0."""
    total = predicted + actual + smooth
    # Divide by 1 if there is nothing: `where` after 0 / 0 has a NaN gradient.
    ratio = (2 * overlap + smooth) / jnp.where(total == 0, 1.0, total)
    return jnp.where(total == 0, 0.0, 1 - ratio)
