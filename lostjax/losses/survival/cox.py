"""Cox's partial likelihood, and survival by Breslow's baseline.

    loss    = mean over events i of  log sum_{j: T_j >= T_i} exp r_j  -  r_i
    H_0(t)  = sum over events i with T_i <= t of  1 / sum_{j: T_j >= T_i} exp r_j
    S(t, x) = exp(-H_0(t) exp r(x))

r is the log of the hazard ratio, any function of the covariates: linear in Cox,
"Regression models and life-tables", 1972, with Breslow's treatment of ties and of the
baseline; a network in Katzman et al., "DeepSurv", 2018, arXiv:1606.00931. A batch
stands for the whole set: an event is compared with those of the batch at risk.

Cost: a sort, and B H for the baseline at H times.
"""

import jax
import jax.numpy as jnp

from lostjax.checks import (
    require_binary,
    require_examples,
    require_increasing,
    require_shape,
)
from lostjax.typing import Array, Bool, Float, Int


def set_cox_loss(
    risks_B: Float[Array, "B"],
    times_B: Float[Array, "B"] | Int[Array, "B"],
    *,
    events_B: Int[Array, "B"] | Bool[Array, "B"],
) -> Float[Array, ""]:
    """Compute the mean negative log partial likelihood of the events of a set.

    Args:
      risks_B: logs of hazard ratios r (B,), B >= 1; computed in float32.
      times_B: when the event happened, or observation ended, (B,), in any unit.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).

    Returns:
      A float32 scalar in nats, at least 0; 0 if no event was seen. Events at one time
      count each other as at risk.

    Raises:
      ValueError: no example, shapes that differ, or an event that is neither 0 nor 1.
    """
    _check(risks_B, times_B, events_B)
    risks_B = risks_B.astype(jnp.float32)
    seen_B = events_B == 1
    costs_B = _log_at_risk(risks_B, times_B) - risks_B
    # Select: a censored example's cost does not matter, even if it is not finite.
    return jnp.sum(jnp.where(seen_B, costs_B, 0.0)) / jnp.maximum(jnp.sum(seen_B), 1)


def breslow_survival(
    risks: Float[Array, "*batch"],
    horizons_H: Float[Array, "H"],
    *,
    train_risks_B: Float[Array, "B"],
    times_B: Float[Array, "B"] | Int[Array, "B"],
    events_B: Int[Array, "B"] | Bool[Array, "B"],
) -> Float[Array, "*batch H"]:
    """Compute survival at some times by Breslow's baseline of the training set.

    Args:
      risks: logs of hazard ratios to predict for (...); computed in float32.
      horizons_H: increasing times (H,), in the unit of `times_B`.
      train_risks_B: logs of hazard ratios of the training set (B,), B >= 1.
      times_B: its times (B,).
      events_B: its events (B,), 1 or 0, or booleans.

    Returns:
      Probabilities of surviving each horizon, (..., H), float32, in [0, 1].

    Raises:
      ValueError: as `set_cox_loss`, or horizons that do not increase.
    """
    _check(train_risks_B, times_B, events_B)
    require_increasing("horizons_H", horizons_H)
    log_at_risk_B = _log_at_risk(train_risks_B.astype(jnp.float32), times_B)
    counts_HB = (events_B == 1) & (times_B <= horizons_H[:, None])
    # Logs throughout: a ratio of exp(90) overflows before it meets its tiny baseline.
    log_baseline_H = jax.nn.logsumexp(-log_at_risk_B[None], axis=-1, where=counts_HB)
    return jnp.exp(-jnp.exp(log_baseline_H + risks.astype(jnp.float32)[..., None]))


def _log_at_risk(risks_B: jax.Array, times_B: jax.Array) -> jax.Array:
    """Compute the log of the sum of exp r over those whose time is not earlier."""
    order = jnp.argsort(times_B)
    sorted_B = times_B[order]
    sums_B = jax.lax.cumlogsumexp(risks_B[order], reverse=True)
    # Those of equal time are at risk together: read the sum where the first stands.
    return sums_B[jnp.searchsorted(sorted_B, times_B, side="left")]


def _check(risks_B: jax.Array, times_B: jax.Array, events_B: jax.Array) -> None:
    require_examples("risks_B", risks_B)
    require_shape("times_B", times_B, risks_B.shape)
    require_shape("events_B", events_B, risks_B.shape)
    require_binary("events_B", events_B)
