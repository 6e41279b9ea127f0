"""Trajectory losses: how far a model's answers have moved from its own past ones.

    trajectory_loss = t^2 KL(softmax(past / t) || softmax(now / t))     per position

Added to the cross entropy with weight lambda it penalises fast falls of the loss, which
mark sharp descents: sharpness-aware training at the price of a forward pass, or of
none (Du et al., "Sharpness-Aware Training for Free", 2022, arXiv:2205.14083). Who the
past is makes the method: the same example some epochs ago (SAF), or a moving average
of the parameters (MESA); `optim.memory` and `optim.past_params` remember both.

The loss is scaled by t^2, as in the authors' code; the formula in their paper is not.
The gradient by the logits is t (softmax(now / t) - softmax(past / t)), of the same size
at every large t, so that one lambda serves every temperature; lambda of the unscaled
formula is t^2 times this one (25 times at t = 5).

Past logits of a vocabulary do not fit anywhere: 128 kB a token at V = 32000. The k
likeliest probabilities and the mass of the rest take 6 k + 4 bytes (196 at k = 32,
about 650 times less), and the divergence between these coarser distributions is a lower
bound of the whole one (data processing), which is reached at k = V.

Cost: a pass or two over the logits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.typing import Array, Float, Int


class TopOutputs(NamedTuple):
    """The likeliest classes of a distribution, and the mass of all others."""

    ids: Int[Array, "*batch k"]
    """The k likeliest classes, likeliest first, int32."""
    log_probs: Float[Array, "*batch k"]
    """Their log-probabilities, nats."""
    log_rest: Float[Array, "*batch"]
    """Log of the others' probability, float32; -inf where k = V."""


def trajectory_loss(
    logits: Float[Array, "*batch V"],
    past_logits: Float[Array, "*batch V"],
    *,
    temperature: float = 5.0,
) -> Float[Array, "*batch"]:
    """Compute the divergence of past outputs from present ones, times temperature^2.

    Args:
      logits: present ones (..., V); computed in float32.
      past_logits: of the same inputs and shape; no gradient enters them. A class that
        they rule out (-inf) adds nothing.
      temperature: t > 0, divides both logits.

    Returns:
      Losses of shape (...), float32, in nats times temperature^2; 0 where both are the
      same, infinite where the present rules out what the past did not.

    Raises:
      ValueError: where the shapes differ, or the temperature is not positive and
        finite.
    """
    _require_temperature(temperature)
    if past_logits.shape != logits.shape:
        raise ValueError(
            f"past_logits: shape {past_logits.shape} is not that of logits, "
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
    """Keep the k likeliest probabilities and the mass of the rest, without gradient.

    Args:
      logits: (..., V); computed in float32.
      k: in [1, V]; of equal probabilities those of lower ids are kept.
      temperature: t > 0, divides the logits; that of the loss to come.
      dtype: of `log_probs`. float16 is finer than bfloat16 in their range.

    Returns:
      The outputs, 4 k + 4 + k x (bytes of dtype) bytes a position.

    Raises:
      ValueError: where k or the temperature is outside its range.
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
      logits: present ones (..., V); computed in float32.
      past: of the same inputs, from `compress_outputs` at the same temperature; ids in
        [0, V), distinct. What rounding took from the sum of its probabilities is put
        right.
      temperature: t > 0.

    Returns:
      Losses of shape (...), float32, in nats times temperature^2: at most those of
      `trajectory_loss`, and the same at k = V.

    Raises:
      ValueError: where the shapes do not fit, or the temperature is not positive and
        finite.
    """
    _require_temperature(temperature)
    if past.ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"past.ids: shape {past.ids.shape} does not fit logits of {logits.shape}"
        )
    past = jax.lax.stop_gradient(past)
    log_q = _coarsen(logits, past.ids, temperature=temperature)
    log_p = _append(past.log_probs.astype(jnp.float32), past.log_rest)
    log_p = jax.nn.log_softmax(log_p, axis=-1)
    return temperature**2 * _relative_entropy(log_p, log_q)


def _require_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}: must be positive and finite")


def _log_softmax(logits: jax.Array, temperature: float) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)


def _relative_entropy(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


def _append(values: jax.Array, last: jax.Array) -> jax.Array:
    return jnp.concatenate([values, last[..., None]], axis=-1)


def _coarsen(logits: jax.Array, ids: jax.Array, *, temperature: float) -> jax.Array:
    """Give the log-probabilities of the classes `ids`, and of all others together."""
    scaled = logits.astype(jnp.float32) / temperature
    # A mask of a byte a class: no gradient passes through its scatter.
    others = jnp.where(_mask_classes(ids, logits.shape[-1]), -jnp.inf, scaled)
    top = jax.lax.stop_gradient(jnp.max(others, axis=-1))
    top = jnp.where(top == -jnp.inf, 0.0, top)
    total = jnp.sum(jnp.exp(others - top[..., None]), axis=-1)
    # Where there are no others, log 0 must not get a gradient of 0 times inf.
    has_others = total > 0
    rest = jnp.where(
        has_others, jnp.log(jnp.where(has_others, total, 1.0)) + top, -jnp.inf
    )
    chosen = jnp.take_along_axis(scaled, ids, axis=-1)
    return jax.nn.log_softmax(_append(chosen, rest), axis=-1)


def _mask_classes(ids: jax.Array, n_classes: int) -> jax.Array:
    """Say which classes are among `ids`, (..., n_classes)."""

    def mask(ids_k: jax.Array) -> jax.Array:
        return jnp.zeros(n_classes, bool).at[ids_k].set(True)

    # Batched by vmap, not by indices: then every shard of a batch scatters at home.
    for _ in range(ids.ndim - 1):
        mask = jax.vmap(mask)
    return mask(ids)
