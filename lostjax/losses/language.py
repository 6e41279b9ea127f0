"""Losses of a language model: next-token cross entropy and the log-partition penalty.

    next_token_loss         = log sum_v exp(z_v) - z_target
    log_partition_penalty   = (log sum_v exp(z_v))^2

The penalty keeps the partition function near 1, which bfloat16 logits need (Chowdhery
et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311,
section 5: weight 1e-4). It is often called "z-loss"; in lostjax that name belongs to
another loss, the spherical one.

Both cost one pass over the logits; XLA shares their log-sum-exp under one jit. The
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
