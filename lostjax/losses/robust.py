"""Which examples of a batch count: the hardest more, or only some of them.

    KL-DRO weights  w_i = p_i exp(l_i / r) / sum_j p_j exp(l_j / r)
    KL-DRO loss     r log sum_i p_i exp(l_i / r)

The loss is the largest weighted mean, max_w sum_i w_i l_i - r KL(w || p), of which the
weights are the maximiser: distributionally robust optimisation with a divergence
penalty. For r -> inf it is the mean under the prior p, for r -> 0 the maximum. Sow et
al., "Doubly Robust Instance-Reweighted Adversarial Training", 2023, arXiv:2308.00311,
reweight adversarial losses by it. Unlike `sample_weights`, the weights depend on the
losses' size and not on their place in the batch's range, and have no bound: at a small
r one example, and a wrong label first of all, has all the weight. 1 / sum_i w_i^2 is
the number of examples that count in effect.

The masks keep a number of examples that may be traced, as by a schedule.
`small_loss_mask` is the selection of co-teaching: Han et al., "Co-teaching: Robust
Training of Deep Neural Networks with Extremely Noisy Labels", 2018, arXiv:1804.06872.
`hard_negative_mask` is online hard example mining: Shrivastava et al., "Training
Region-based Object Detectors with Online Hard Example Mining", 2016, arXiv:1604.03540.
Both keep NaN first: a sort that puts NaN last would drop a diverged example silently.

Cost: a few passes over the losses; the masks sort.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import (
    require_binary,
    require_not_negative,
    require_positive,
    require_shape,
    require_weights,
)
from lostjax.losses.reduce import require_one_per_example
from lostjax.typing import Array, Bool, Float, Int, Scalar


def kl_dro_weights(
    losses_B: Float[Array, "B"],
    *,
    temperature: Scalar,
    prior_B: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Compute the worst-case weights of examples under a divergence penalty.

    Args:
      losses_B: one loss per example of the global batch; computed in float32.
      temperature: r > 0, in the unit of the losses; infinity returns the normalised
        prior. A traced value is not checked.
      prior_B: non-negative weights, up to a common factor; None for uniform. An example
        of prior 0 gets weight 0, and its loss may have any value.

    Returns:
      Weights (B,), float32, with sum 1; all 0 if no prior is positive, and all NaN if a
      loss that counts is not finite. No gradient flows through them.

    Raises:
      ValueError: no example, shapes that differ, a temperature that is not positive, or
        a prior that is negative or not finite.
    """
    require_one_per_example("losses_B", losses_B)
    names = "losses_B", "prior_B"
    losses_B, prior_B = _ready(losses_B, prior_B, names, temperature=temperature)
    worst = jnp.max(losses_B, where=prior_B > 0, initial=-jnp.inf)
    # exp(l / r) overflows at l = 90 r: subtract the largest loss first.
    raised_B = prior_B * jnp.exp((losses_B - worst) / temperature)
    # 0 * NaN is NaN: exclude examples of prior 0 by selection.
    raised_B = jnp.where(prior_B > 0, raised_B, 0.0)
    total = jnp.sum(raised_B)
    return jax.lax.stop_gradient(raised_B / jnp.where(total == 0, 1.0, total))


def set_kl_dro_loss(
    losses: Float[Array, "..."],
    *,
    temperature: Scalar,
    weights: Float[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Compute the worst-case weighted mean of a set under a divergence penalty.

    Args:
      losses: values of any shape: the whole array is one set; computed in float32.
      temperature: r > 0, in the unit of the losses; infinity for the weighted mean. A
        traced value is not checked.
      weights: the prior, up to a common factor, same shape; weight 0 removes a value
        exactly. None for uniform.

    Returns:
      A float32 scalar between the weighted mean and the maximum, whose gradient is
      `kl_dro_weights`; 0 with a zero gradient if nothing counts.

    Raises:
      ValueError: as `kl_dro_weights`.
    """
    names = "losses", "weights"
    losses, weights = _ready(losses, weights, names, temperature=temperature)
    counts = weights > 0
    total = jnp.sum(weights)
    share = weights / jnp.where(total == 0, 1.0, total)
    losses = jnp.where(counts, losses, 0.0)
    mean = jnp.sum(share * losses)
    finite = jnp.where(jnp.isinf(temperature), 1.0, temperature)
    # The shift cancels in exact arithmetic, so its gradient is 0: do not compute it.
    top = jax.lax.stop_gradient(jnp.max(losses, where=counts, initial=-jnp.inf))
    top = jnp.where(total == 0, 0.0, top)
    x = jnp.where(counts, (losses - top) / finite, 0.0)
    # Two forms of log sum p exp(x): at large r the logs of near 1 cancel, and times r
    # their rounding error would be a loss; at small r log1p of nearly -1 does.
    rise = jnp.sum(share * jnp.expm1(x))
    near = jnp.log1p(jnp.maximum(rise, -0.9))  # at x >= -1 it is above -0.64
    far = jax.nn.logsumexp(x, b=share)
    bound = jnp.where(jnp.min(x) >= -1, near, far) * finite + top
    value = jnp.where(jnp.isinf(temperature), mean, bound)
    return jnp.where(total == 0, 0.0, value)


def small_loss_mask(
    losses: Float[Array, "*batch"],
    *,
    k: int | Int[Array, ""],
    where: Bool[Array, "*batch"] | None = None,
) -> Bool[Array, "*batch"]:
    """Mask all examples but those with the k smallest losses.

    Args:
      losses: one loss per example, any shape; the k are taken over the whole array.
      k: number of examples to keep, >= 1, may be traced; all of them if there are
        fewer. Ties keep the earlier ones. NaN counts as the smallest, so that it
        stays visible.
      where: False for padding, which is masked and takes no place among the k.

    Returns:
      A boolean mask of the same shape, True for examples to keep.

    Raises:
      ValueError: shapes that differ, or k below 1.
    """
    require_positive("k", k)
    there = jnp.ones(losses.shape, bool) if where is None else where
    require_shape("where", there, losses.shape)
    return _first(losses, there, k)


def hard_negative_mask(
    scores: Float[Array, "*batch"],
    labels: Int[Array, "*batch"] | Bool[Array, "*batch"],
    *,
    k: int | Int[Array, ""],
    where: Bool[Array, "*batch"] | None = None,
) -> Bool[Array, "*batch"]:
    """Mask all negatives but those with the k highest scores; keep every positive.

    Args:
      scores: scores or logits of the positive class, any shape; the k are taken over
        the whole array.
      labels: 1 for positives and 0 for negatives, or booleans, same shape.
      k: number of negatives to keep, >= 0, may be traced; all of them if there are
        fewer. Ties keep the earlier ones. NaN counts as the highest score, so that it
        stays visible.
      where: False for padding, which is masked and takes no place among the k.

    Returns:
      A boolean mask of the same shape, True for examples to keep.

    Raises:
      ValueError: shapes that differ, a label that is neither 0 nor 1, or a negative k.
    """
    require_shape("labels", labels, scores.shape)
    require_binary("labels", labels)
    require_not_negative("k", k)
    there = jnp.ones(scores.shape, bool) if where is None else where
    require_shape("where", there, scores.shape)
    hard = _first(-scores, there & (labels == 0), k)
    return hard | (there & (labels == 1))


def _ready(
    losses: jax.Array,
    prior: jax.Array | None,
    names: tuple[str, str],
    *,
    temperature: Scalar,
) -> tuple[jax.Array, jax.Array]:
    """Check the arguments, which have these names; return float32 losses and prior."""
    require_positive("temperature", temperature)
    if not losses.size:
        raise ValueError(f"{names[0]}=[]: must hold at least one example")
    losses = losses.astype(jnp.float32)
    if prior is None:
        return losses, jnp.ones_like(losses)
    require_shape(names[1], prior, losses.shape)
    require_weights(names[1], prior)
    return losses, prior.astype(jnp.float32)


def _first(values: jax.Array, there: jax.Array, k: int | jax.Array) -> jax.Array:
    """Mask all but the k smallest values that are there; NaN is the smallest."""
    flat, there_flat = values.ravel(), there.ravel()
    # By three keys, the last one first: -inf must not come before NaN, nor any value
    # before one that is there.
    broken = jnp.isnan(flat)
    order = jnp.lexsort((jnp.where(broken, 0, flat), ~broken, ~there_flat))
    rank = jnp.argsort(order)  # the inverse permutation
    return (there_flat & (rank < k)).reshape(values.shape)
