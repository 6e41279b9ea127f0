"""Losses of the spherical family: functions of three numbers of the logits.

    c = z_target,  s = sum_v z_v,  q = sum_v z_v^2,  D = number of classes

    Z-loss          softplus(a (b - (c - m) / sd)) / a,  m = s / D,  sd^2 = q / D - m^2
    spherical       log(q + D e) - log(c^2 + e): a softmax of squares instead of exp
    Taylor softmax  log(D + s + q / 2) - log(1 + c + c^2 / 2)
    squared error   q - 2 c + 1 = sum_v (z_v - [v = target])^2

The Z-loss does not change if the logits are shifted or multiplied by a positive number.
De Brebisson & Vincent, "The Z-loss: a shift and scale invariant classification loss
belonging to the Spherical Family", 2016, arXiv:1604.08859, and "An Exploration of
Softmax Alternatives Belonging to the Spherical Loss Family", 2015, arXiv:1511.05042
(the others). A layer can compute the three numbers without its logits, at a cost that
does not depend on D (Vincent et al., "Efficient Exact Gradient Update for training Deep
Networks with Very Large Sparse Targets", 2014, arXiv:1412.7091); `*_from_sums` are for
such a layer.

Use these forms with care: q / D - m^2 cancels digits. At a mean of 1,000 standard
deviations float32 loses all but one or two of them; the forms that take logits centre
them first and keep them. (c - m) / sd is at most sqrt(D - 1), so a shift b above that
is never reached and the loss never flattens. Equal logits have no standard score: it is
set to 0 with a zero gradient, so a constant output stays a constant output.

This is not the "z-loss" of large language models, (log sum exp z)^2; that one is
`log_partition_penalty`.

Cost: a few passes over the logits, no exponentials; O(1) from sums.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.checks import nan_if, require_classes, require_positive, require_shape
from lostjax.typing import Array, Float, Int, Scalar

EPSILON = 2.0**-23
"""Spacing of float32 numbers at 1."""


class LogitSums(NamedTuple):
    """What a spherical loss reads of the logits of each example."""

    target: Float[Array, "*batch"]
    """Logit of the target."""
    total: Float[Array, "*batch"]
    """Sum of all logits."""
    squares: Float[Array, "*batch"]
    """Sum of the squares of all logits."""


def z_loss(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    scale: Scalar = 1.0,
    shift: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Compute the softplus of how far the target's standard score lies below a shift.

    Args:
      logits: shape (..., V), V >= 2; computed in float32.
      targets: classes in [0, V), shape (...); a traced target outside returns NaN.
      scale: a > 0; small values make the loss linear in the standard score.
      shift: b, the standard score from which on the loss flattens.

    Returns:
      Losses of shape (...), float32, at least 0.

    Raises:
      ValueError: shapes that do not match, a target outside its range, fewer than two
        classes, or a scale that is not positive.
    """
    logits, targets = _ready(logits, targets)
    # The pivot makes equal logits exactly 0: their mean alone would leave rounding
    # errors, which a division by their own size would blow up to standard scores of 1.
    pivot = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    centred = logits - pivot
    centred = centred - jnp.mean(centred, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1)
    return _z_loss(_pick(centred, targets), variance, scale=scale, shift=shift)


def z_loss_from_sums(
    sums: LogitSums, *, n_classes: int, scale: Scalar = 1.0, shift: Scalar = 0.0
) -> Float[Array, "*batch"]:
    """Compute `z_loss` from the target's logit and two sums.

    Args:
      sums: three numbers of each example; computed in float32.
      n_classes: number D of logits, at least 2.
      scale: a > 0.
      shift: b, the standard score from which on the loss flattens.

    Returns:
      Losses of the shape of `sums.target`, float32, at least 0. A variance below
      the rounding error of the sums counts as equal logits.

    Raises:
      ValueError: fewer than two classes, or a scale that is not positive.
    """
    _require_two(n_classes)
    target, total, squares = _widen(sums)
    mean = total / n_classes
    mean_square = squares / n_classes
    variance = mean_square - jnp.square(mean)
    # What is left of a variance that cancelled is rounding error; a division by it
    # would make standard scores of it.
    noise = 4 * EPSILON * mean_square
    variance = jnp.where(variance <= noise, 0.0, variance)
    return _z_loss(target - mean, variance, scale=scale, shift=shift)


def spherical_softmax_loss(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    floor: Scalar = 1e-3,
) -> Float[Array, "*batch"]:
    """Compute the cross entropy of shares that go by the squares of the logits.

    Args:
      logits: shape (..., V), V >= 2; computed in float32.
      targets: classes in [0, V), shape (...); a traced target outside returns NaN.
      floor: e > 0, added to every square; the loss is at most log(D + q / e).

    Returns:
      Losses of shape (...), float32, in nats, at least 0.

    Raises:
      ValueError: shapes that do not match, a target outside its range, fewer than two
        classes, or a floor that is not positive.
    """
    sums = sum_logits(logits, targets)
    return spherical_softmax_loss_from_sums(
        sums, n_classes=logits.shape[-1], floor=floor
    )


def spherical_softmax_loss_from_sums(
    sums: LogitSums, *, n_classes: int, floor: Scalar = 1e-3
) -> Float[Array, "*batch"]:
    """Compute `spherical_softmax_loss` from the target's logit and the squares.

    Args:
      sums: three numbers of each example, of which the sum is not read.
      n_classes: number D of logits, at least 2.
      floor: e > 0, added to every square.

    Returns:
      Losses of the shape of `sums.target`, float32, in nats.

    Raises:
      ValueError: fewer than two classes, or a floor that is not positive.
    """
    _require_two(n_classes)
    require_positive("floor", floor)
    target, _, squares = _widen(sums)
    return jnp.log(squares + n_classes * floor) - jnp.log(jnp.square(target) + floor)


def taylor_softmax_loss(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute the cross entropy of a softmax whose exponential is 1 + z + z^2 / 2.

    Args:
      logits: shape (..., V), V >= 2; computed in float32.
      targets: classes in [0, V), shape (...); a traced target outside returns NaN.

    Returns:
      Losses of shape (...), float32, in nats, at least 0.

    Raises:
      ValueError: shapes that do not match, a target outside its range, or fewer than
        two classes.
    """
    sums = sum_logits(logits, targets)
    return taylor_softmax_loss_from_sums(sums, n_classes=logits.shape[-1])


def taylor_softmax_loss_from_sums(
    sums: LogitSums, *, n_classes: int
) -> Float[Array, "*batch"]:
    """Compute `taylor_softmax_loss` from the target's logit and two sums.

    Args:
      sums: three numbers of each example; computed in float32.
      n_classes: number D of logits, at least 2.

    Returns:
      Losses of the shape of `sums.target`, float32, in nats.

    Raises:
      ValueError: fewer than two classes.
    """
    _require_two(n_classes)
    target, total, squares = _widen(sums)
    # Both arguments are positive: 1 + z + z^2 / 2 is at least 1 / 2.
    own = 1 + target + jnp.square(target) / 2
    return jnp.log(n_classes + total + squares / 2) - jnp.log(own)


def spherical_squared_error(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute the squared distance of the logits to the one-hot target.

    Args:
      logits: shape (..., V), V >= 2; computed in float32.
      targets: classes in [0, V), shape (...); a traced target outside returns NaN.

    Returns:
      Losses of shape (...), float32, at least 0 up to rounding.

    Raises:
      ValueError: shapes that do not match, a target outside its range, or fewer than
        two classes.
    """
    return spherical_squared_error_from_sums(sum_logits(logits, targets))


def spherical_squared_error_from_sums(sums: LogitSums) -> Float[Array, "*batch"]:
    """Compute `spherical_squared_error` from the target's logit and two sums.

    Args:
      sums: three numbers of each example, of which the sum is not read.

    Returns:
      Losses of the shape of `sums.target`, float32.
    """
    target, _, squares = _widen(sums)
    return squares - 2 * target + 1


def sum_logits(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> LogitSums:
    """Compute the three numbers that spherical losses read.

    Args:
      logits: shape (..., V), V >= 2; summed in float32.
      targets: classes in [0, V), shape (...); a traced target outside has logit NaN.

    Returns:
      Arrays of shape (...), float32.

    Raises:
      ValueError: shapes that do not match, a target outside its range, or fewer than
        two classes.
    """
    logits, targets = _ready(logits, targets)
    return LogitSums(
        _pick(logits, targets),
        jnp.sum(logits, axis=-1),
        jnp.sum(jnp.square(logits), axis=-1),
    )


def _ready(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    require_shape("targets", targets, logits.shape[:-1])
    require_classes("targets", targets, logits.shape[-1])
    _require_two(logits.shape[-1])
    return logits.astype(jnp.float32), targets


def _require_two(n_classes: int) -> None:
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: must be at least 2")


def _widen(sums: LogitSums) -> LogitSums:
    return LogitSums(*(jnp.asarray(each, jnp.float32) for each in sums))


def _pick(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the logit of each target; NaN if it is no class."""
    hot = jnp.arange(logits.shape[-1]) == targets[..., None]
    # A masked sum: the gradient of a gather is a scatter into a second array.
    return nan_if(~jnp.any(hot, axis=-1), jnp.sum(jnp.where(hot, logits, 0.0), axis=-1))


def _z_loss(
    deviation: jax.Array, variance: jax.Array, *, scale: Scalar, shift: Scalar
) -> jax.Array:
    require_positive("scale", scale)
    flat = variance <= 0
    # The inner `where` keeps the square root away from 0, whose gradient is infinite.
    score = deviation / jnp.sqrt(jnp.where(flat, 1.0, variance))
    score = jnp.where(flat, 0.0, score)
    return jax.nn.softplus(scale * (shift - score)) / scale
