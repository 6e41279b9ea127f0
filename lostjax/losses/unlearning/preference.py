"""Forget by preferring other answers: what FLAT is compared with.

    gradient difference   -l_forget + a l_retain                  a = 0: gradient ascent
    NPO                   (2 / b) log(1 + exp(b (log p - log p_0)))
    SimNPO                (2 / b) log(1 + exp(b log p / n + c))
    DPO                   log(1 + exp(-b (r(e) - r(f))))
                          r(y) = log p(y) - log p_0(y)

log p is the log-probability of a whole answer of n tokens and p_0 the model before.
Gradient ascent has no lower bound; the others have a gradient that fades once the
answer is improbable. As b falls to 0, NPO's gradient becomes that of gradient ascent.

Gradient difference: Liu, Liu & Stone, "Continual Learning and Private Unlearning",
2022, arXiv:2203.12817. NPO: Zhang et al., "Negative Preference Optimization: From
Catastrophic Collapse to Effective Unlearning", 2024, arXiv:2404.05868. SimNPO: Fan et
al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM
Unlearning", 2024, arXiv:2410.07163. DPO: Rafailov et al., "Direct Preference
Optimization: Your Language Model is Secretly a Reward Model", 2023, arXiv:2305.18290.
The open-unlearning library multiplies DPO by 2 / b, and writes SimNPO's margin as
c / b.

Cost: a few operations an example.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import require_not_negative, require_positive, require_shape
from lostjax.typing import Array, Float, Int, Scalar


def gradient_difference(
    forget_loss_B: Float[Array, "*batch"],
    retain_loss_B: Float[Array, "*batch"],
    *,
    retain_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Subtract the loss of what is forgotten from that of what is retained.

    Args:
      forget_loss_B: losses of forgotten examples (...).
      retain_loss_B: losses of retained ones (...), paired with them in any way.
      retain_weight: a, 0 or positive; 0 is gradient ascent alone. May be traced.

    Returns:
      Losses (...), float32, without a lower bound.

    Raises:
      ValueError: shapes differ, or the weight is negative.
    """
    require_shape("retain_loss_B", retain_loss_B, forget_loss_B.shape)
    require_not_negative("retain_weight", retain_weight)
    return retain_weight * _wide(retain_loss_B) - _wide(forget_loss_B)


def negative_preference_loss(
    log_probability_B: Float[Array, "*batch"],
    reference_B: Float[Array, "*batch"],
    *,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    """Compute the loss of negative preference optimisation (NPO) of each answer.

    Args:
      log_probability_B: log-probability of the answer to be forgotten, summed over its
        tokens, (...), at most 0.
      reference_B: the same under the model before, (...).
      beta: b > 0; the smaller, the nearer to gradient ascent. May be traced.

    Returns:
      Losses (...), float32, not negative.

    Raises:
      ValueError: shapes differ, or beta is not positive.
    """
    require_shape("reference_B", reference_B, log_probability_B.shape)
    require_positive("beta", beta)
    ratio_B = _wide(log_probability_B) - jax.lax.stop_gradient(_wide(reference_B))
    return 2 / beta * jax.nn.softplus(beta * ratio_B)


def simple_npo_loss(
    log_probability_B: Float[Array, "*batch"],
    lengths_B: Int[Array, "*batch"] | Float[Array, "*batch"],
    *,
    beta: Scalar = 2.5,
    margin: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Compute the loss of SimNPO of each answer, which needs no reference model.

    Args:
      log_probability_B: see `negative_preference_loss`.
      lengths_B: n, tokens of each answer, (...); 0 counts as 1.
      beta: b > 0. May be traced.
      margin: c; the larger, the longer the gradient stays. May be traced.

    Returns:
      Losses (...), float32, not negative.

    Raises:
      ValueError: shapes differ, or beta is not positive.
    """
    require_shape("lengths_B", lengths_B, log_probability_B.shape)
    require_positive("beta", beta)
    mean_B = _wide(log_probability_B) / jnp.maximum(lengths_B, 1)
    return 2 / beta * jax.nn.softplus(beta * mean_B + margin)


def direct_preference_loss(
    chosen_B: Float[Array, "*batch"],
    rejected_B: Float[Array, "*batch"],
    *,
    chosen_reference_B: Float[Array, "*batch"],
    rejected_reference_B: Float[Array, "*batch"],
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    """Compute the loss of direct preference optimisation (DPO) of each pair.

    Args:
      chosen_B: log-probability of the preferred answer, such as a template, summed over
        its tokens, (...).
      rejected_B: the same of the answer to be forgotten.
      chosen_reference_B: of the preferred answer under the model before.
      rejected_reference_B: of the answer to be forgotten under the model before.
      beta: b > 0. May be traced.

    Returns:
      Losses (...), float32, not negative; log 2 at the model before.

    Raises:
      ValueError: shapes differ, or beta is not positive.
    """
    for name, array in (
        ("rejected_B", rejected_B),
        ("chosen_reference_B", chosen_reference_B),
        ("rejected_reference_B", rejected_reference_B),
    ):
        require_shape(name, array, chosen_B.shape)
    require_positive("beta", beta)
    before_B = _wide(chosen_reference_B) - _wide(rejected_reference_B)
    now_B = _wide(chosen_B) - _wide(rejected_B)
    return jax.nn.softplus(-beta * (now_B - jax.lax.stop_gradient(before_B)))


def _wide(values: Array) -> Array:
    return values.astype(jnp.float32)
