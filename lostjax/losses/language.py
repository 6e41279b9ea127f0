"""Losses of a language model: next-token cross entropy and what may be added to it.

    next_token_loss         = log sum_v exp(z_v) - z_target
    log_partition_penalty   = (log sum_v exp(z_v))^2
    smoothing_penalty       = z_target - mean_v z_v

The penalty keeps the partition function near 1, which bfloat16 logits need (Chowdhery
et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311,
section 5: weight 1e-4). It is often called "z-loss"; in lostjax that name belongs to
another loss, the spherical one.

Label smoothing is the cross entropy of targets that give a share a to all V tokens
alike (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
2015, arXiv:1512.00567, section 7). It is linear in the targets, so that it is the plain
cross entropy plus a times the smoothing penalty.

Each costs one pass over the logits; XLA shares their log-sum-exp under one jit. The
cross entropy brings its own gradient, softmax less one-hot in one pass: the one derived
from the gather would scatter into a second array of the logits' size. Reverse mode
alone is defined for it (forward over reverse included).
"""

from typing import Any

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, Int


def next_token_loss(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute the cross entropy of each target under its logits, in nats.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.
      targets: token ids in [0, V), shape (...).

    Returns:
      Non-negative losses of shape (...), float32.
    """
    return _cross_entropy(logits, targets)


def log_partition_penalty(logits: Float[Array, "*batch V"]) -> Float[Array, "*batch"]:
    """Compute the squared log of the softmax's partition function.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.

    Returns:
      Penalties of shape (...), float32: 0 where the logits are normalised.
    """
    return jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1) ** 2


def smoothing_penalty(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute what label smoothing adds to the cross entropy, before its weight.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.
      targets: token ids in [0, V), shape (...).

    Returns:
      Cross entropy of uniform targets less that of `targets`, of either sign, of shape
      (...), float32, nats. Cross entropy + a x it has targets smoothed by a in [0, 1).
    """
    wide = logits.astype(jnp.float32)
    ids = jax.lax.broadcasted_iota(jnp.int32, wide.shape, wide.ndim - 1)
    # A sum and no gather, whose gradient would scatter into an array of its own.
    target = jnp.sum(jnp.where(ids == targets[..., None], wide, 0.0), axis=-1)
    return target - jnp.mean(wide, axis=-1)


@jax.custom_vjp
def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return _cross_entropy_forward(logits, targets)[0]


def _cross_entropy_forward(
    logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
    wide = logits.astype(jnp.float32)
    target = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    log_partition = jax.nn.logsumexp(wide, axis=-1)
    return log_partition - target, (logits, targets, log_partition)


def _cross_entropy_backward(kept: Any, cotangents: jax.Array) -> tuple[jax.Array, None]:
    logits, targets, log_partition = kept
    softmax = jnp.exp(logits.astype(jnp.float32) - log_partition[..., None])
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    gradient = softmax - (ids == targets[..., None])
    return (gradient * cotangents[..., None]).astype(logits.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
