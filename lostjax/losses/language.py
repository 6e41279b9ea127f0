"""Losses of a language model: next-token cross entropy and two optional penalties.

    next_token_loss         = log sum_v exp(z_v) - z_target
    log_partition_penalty   = (log sum_v exp(z_v))^2
    smoothing_penalty       = z_target - mean_v z_v

The log-partition penalty keeps the partition function near 1, as bfloat16 logits need
(Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022,
arXiv:2204.02311, section 5: weight 1e-4). It is often called "z-loss"; lostjax reserves
that name for another loss, the spherical one.

Label smoothing is the cross entropy with targets that spread a share a uniformly over
all V tokens (Szegedy et al., "Rethinking the Inception Architecture for Computer
Vision", 2015, arXiv:1512.00567, section 7). Cross entropy is linear in the targets, so
label smoothing equals plain cross entropy plus a times the smoothing penalty.

Each function costs one pass over the logits; under one jit, XLA computes their common
log-sum-exp once. The cross entropy defines its own gradient, softmax minus one-hot, in
one pass: the automatic gradient of the gather would scatter into a second array of the
size of the logits. Only reverse mode is defined (forward over reverse included).
"""

from typing import Any

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, Int


def next_token_loss(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute the cross entropy of each target under its logits.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.
      targets: token ids in [0, V), shape (...).

    Returns:
      Losses of shape (...), float32, in nats, at least 0.
    """
    return _cross_entropy(logits, targets)


def log_partition_penalty(logits: Float[Array, "*batch V"]) -> Float[Array, "*batch"]:
    """Compute the squared log of the softmax's partition function.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.

    Returns:
      Penalties of shape (...), float32; 0 if the logits are normalised.
    """
    return jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1) ** 2


def smoothing_penalty(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Compute the term that label smoothing adds to the cross entropy, without its
    weight.

    Args:
      logits: unnormalised log-probabilities (..., V); computed in float32.
      targets: token ids in [0, V), shape (...).

    Returns:
      Cross entropy with uniform targets minus cross entropy with `targets`: shape
      (...), float32, nats, of either sign. For targets smoothed by a in [0, 1), add a
      times this penalty to the cross entropy.
    """
    wide = logits.astype(jnp.float32)
    ids = jax.lax.broadcasted_iota(jnp.int32, wide.shape, wide.ndim - 1)
    # A masked sum instead of a gather: the gradient of a gather is a scatter, which
    # allocates a second array of the size of the logits.
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
    # logsumexp subtracts the maximum first, so that exp cannot overflow.
    log_partition = jax.nn.logsumexp(wide, axis=-1)
    return log_partition - target, (logits, targets, log_partition)


def _cross_entropy_backward(kept: Any, cotangents: jax.Array) -> tuple[jax.Array, None]:
    logits, targets, log_partition = kept
    # Recompute the softmax from the saved log-partition: storing it would keep a
    # float32 array of the size of the logits until the backward pass.
    softmax = jnp.exp(logits.astype(jnp.float32) - log_partition[..., None])
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # Compare with an iota instead of building a one-hot array, so that XLA fuses it.
    gradient = softmax - (ids == targets[..., None])
    # Round once, at the end.
    return (gradient * cotangents[..., None]).astype(logits.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
