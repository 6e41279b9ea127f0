"""Trajectory losses: divergence of the model's outputs from its own past outputs.

    trajectory_loss = t^2 KL(softmax(past / t) || softmax(now / t))     per position

Added to the cross entropy with a weight lambda, the loss penalises rapid decreases of
the training loss, which indicate sharp descents. This approximates sharpness-aware
training for the price of one additional forward pass or none (Du et al.,
"Sharpness-Aware Training for Free", 2022, arXiv:2205.14083). The methods differ in
the source of the past outputs: SAF uses the outputs for the same example some epochs
ago, MESA those of a moving average of the parameters. `optim.memory` and
`optim.past_params` store them.

The factor t^2 follows the authors' code; the formula in their paper lacks it. The
gradient with respect to the logits is t (softmax(now / t) - softmax(past / t)). Its
size is nearly constant for large t, so one lambda serves every temperature. A lambda
for the unscaled formula is t^2 times the lambda used here (25 times at t = 5).

Full past logits are too large to store: 128 kB per token at V = 32000. The k largest
probabilities and the total mass of the rest take 6 k + 4 bytes (196 at k = 32, about
650 times less). The divergence between these coarser distributions is a lower bound of
the full divergence (data processing inequality), with equality at k = V.

Cost: one or two passes over the logits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.typing import Array, Float, Int


class TopOutputs(NamedTuple):
    """The k most likely classes of a distribution, and the total mass of the others."""

    ids: Int[Array, "*batch k"]
    """The k most likely classes, most likely first, int32."""
    log_probs: Float[Array, "*batch k"]
    """Log-probabilities of these classes, in nats."""
    log_rest: Float[Array, "*batch"]
    """Log of the total probability of the other classes, float32; -inf if k = V."""


def trajectory_loss(
    logits: Float[Array, "*batch V"],
    past_logits: Float[Array, "*batch V"],
    *,
    temperature: float = 5.0,
) -> Float[Array, "*batch"]:
    """Compute KL(past outputs || present outputs) times temperature^2.

    Args:
      logits: present logits (..., V); computed in float32.
      past_logits: past logits of the same inputs, same shape; treated as constants. A
        class with past logit -inf contributes 0.
      temperature: t > 0, divides both logits.

    Returns:
      Losses of shape (...), float32, in nats times temperature^2. The loss is 0 if both
      distributions are equal, and infinite if a class has present probability 0 but
      past probability above 0.

    Raises:
      ValueError: if the shapes differ, or the temperature is not positive and finite.
    """
    _require_temperature(temperature)
    if past_logits.shape != logits.shape:
        raise ValueError(
            f"past_logits: shape {past_logits.shape} must equal that of logits, "
            f"{logits.shape}"
        )
    log_p = _log_softmax(jax.lax.stop_gradient(past_logits), temperature)
    log_q = _log_softmax(logits, temperature)
    return temperature**2 * _relative_entropy(log_p, log_q)


def compress_outputs(
    logits: Float[Array, "*batch V"],
    *,
    k: int,
    temperature: float = 5.0,
    dtype: DTypeLike = jnp.float16,
) -> TopOutputs:
    """Compute the k largest probabilities and the mass of the rest, without gradient.

    Args:
      logits: shape (..., V); computed in float32.
      k: number of classes to keep, in [1, V]; ties keep the lower ids.
      temperature: t > 0, divides the logits; use the temperature of the loss.
      dtype: type of `log_probs`. In their range float16 is more precise than bfloat16.

    Returns:
      The compressed outputs; 4 k + 4 + k x (bytes of dtype) bytes per position.

    Raises:
      ValueError: if k or the temperature is out of range.
    """
    _require_temperature(temperature)
    n_classes = logits.shape[-1]
    if not 1 <= k <= n_classes:
        raise ValueError(f"k={k}: must lie in [1, {n_classes}], the number of classes")
    logits = jax.lax.stop_gradient(logits)
    _, ids = jax.lax.top_k(logits, k)
    log_probs = _coarsen(logits, ids, temperature=temperature)
    return TopOutputs(ids, log_probs[..., :-1].astype(dtype), log_probs[..., -1])


def compressed_trajectory_loss(
    logits: Float[Array, "*batch V"], past: TopOutputs, *, temperature: float = 5.0
) -> Float[Array, "*batch"]:
    """Compute `trajectory_loss` between distributions over k classes and "the rest".

    Args:
      logits: present logits (..., V); computed in float32.
      past: outputs of `compress_outputs` for the same inputs and temperature, with
        distinct ids in [0, V). Its probabilities are renormalised to sum to 1, which
        corrects the rounding of `log_probs`.
      temperature: t > 0.

    Returns:
      Losses of shape (...), float32, in nats times temperature^2: at most the value of
      `trajectory_loss`, and equal to it at k = V.

    Raises:
      ValueError: if the shapes do not match, or the temperature is not positive and
        finite.
    """
    _require_temperature(temperature)
    if past.ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"past.ids: shape {past.ids.shape} does not match logits of shape "
            f"{logits.shape}"
        )
    past = jax.lax.stop_gradient(past)
    log_q = _coarsen(logits, past.ids, temperature=temperature)
    log_p = _append(past.log_probs.astype(jnp.float32), past.log_rest)
    # Renormalise: rounding to float16 changed the sum of the probabilities.
    log_p = jax.nn.log_softmax(log_p, axis=-1)
    return temperature**2 * _relative_entropy(log_p, log_q)


def _require_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}: must be positive and finite")


def _log_softmax(logits: jax.Array, temperature: float) -> jax.Array:
    # float32 before dividing: bfloat16 has only 8 bits for differences of logits.
    return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)


def _relative_entropy(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    p = jnp.exp(log_p)
    # Guard p = 0: 0 * (-inf) would be NaN instead of 0.
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


def _append(values: jax.Array, last: jax.Array) -> jax.Array:
    return jnp.concatenate([values, last[..., None]], axis=-1)


def _coarsen(logits: jax.Array, ids: jax.Array, *, temperature: float) -> jax.Array:
    """Return the log-probabilities of the classes `ids` and of all others together."""
    scaled = logits.astype(jnp.float32) / temperature
    # Mask with booleans, one byte per class: no gradient flows through their scatter.
    others = jnp.where(_mask_classes(ids, logits.shape[-1]), -jnp.inf, scaled)
    # The shift cancels in exact arithmetic, so its gradient is 0: do not compute it.
    top = jax.lax.stop_gradient(jnp.max(others, axis=-1))
    # At k = V there are no others: -inf - (-inf) would be NaN.
    top = jnp.where(top == -jnp.inf, 0.0, top)
    total = jnp.sum(jnp.exp(others - top[..., None]), axis=-1)
    # The inner `where` keeps log away from 0, whose gradient would be 0 * inf = NaN.
    has_others = total > 0
    rest = jnp.where(
        has_others, jnp.log(jnp.where(has_others, total, 1.0)) + top, -jnp.inf
    )
    chosen = jnp.take_along_axis(scaled, ids, axis=-1)
    return jax.nn.log_softmax(_append(chosen, rest), axis=-1)


def _mask_classes(ids: jax.Array, n_classes: int) -> jax.Array:
    """Return a boolean mask (..., n_classes) that is True at the classes in `ids`."""

    def mask(ids_k: jax.Array) -> jax.Array:
        return jnp.zeros(n_classes, bool).at[ids_k].set(True)

    # vmap instead of batch indices: each shard of the batch then scatters locally,
    # without communication.
    for _ in range(ids.ndim - 1):
        mask = jax.vmap(mask)
    return mask(ids)
