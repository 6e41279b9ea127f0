"""Discrete-time survival: the likelihood of hazards, with censored times.

    h_t = sigmoid(z_t) = P(event in bin t | none before)
    S_t = prod_{s <= t} (1 - h_s)                              survival to the end of t
    loss = - sum_{s < j} log(1 - h_s) - log h_j                event in bin j
    loss = - sum_{s <= j} log(1 - h_s)                         censored in bin j

the likelihood of the discrete-time logistic model: a sum of binary cross entropies over
the bins in which an example was at risk. Without covariates its minimum is the
Kaplan-Meier hazard, events over examples at risk. Kvamme & Borgan, "Continuous and
Discrete-Time Survival Prediction with Neural Networks", 2019, arXiv:1910.06724. Kitada
et al., "Ad Creative Discontinuation Prediction with Multi-Modal Multi-Task Neural
Survival Networks", 2022, arXiv:2204.11588, train on a hazard-based loss of two sets of
bins, short and long, and weigh examples by click-through rate: a weighted sum of two
calls, and the weights of `weighted_mean`. Their exact loss was not available to us.

An example that was censored within a bin counts as at risk during the whole bin, as in
the formula above. pycox's transformation rounds censored times down to the last edge
instead; subtract one from the bins of censored examples for the same.

Cost: one pass over the logits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lostjax.checks import nan_if, require_binary, require_classes, require_shape
from lostjax.typing import Array, Bool, Float, Int


class DiscreteTimes(NamedTuple):
    """Times as bins: what `hazard_loss` is computed from."""

    bins: Int[Array, "*batch"]
    """Number of the bin that holds the time, int32, from 0; -1 for a traced time that
    is NaN or not above the first edge, for which the loss is NaN."""
    events: Bool[Array, "*batch"]
    """Whether the event was seen in this bin; False for times past the last edge."""


def hazard_loss(
    logits: Float[Array, "*batch T"],
    bins: Int[Array, "*batch"],
    *,
    events: Int[Array, "*batch"] | Bool[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Compute the negative log-likelihood of each time under its hazards.

    Args:
      logits: logits of the hazard of each bin, shape (..., T); computed in float32.
      bins: bin of each event or censoring, in [0, T), shape (...); a traced bin outside
        returns NaN.
      events: 1 if the event was seen and 0 if it was censored, or booleans, (...).

    Returns:
      Losses of shape (...), float32, in nats, at least 0.

    Raises:
      ValueError: shapes that do not match, a bin outside its range, or an event that is
        neither 0 nor 1.

    Example:
        times = discretize_times(times_B, events=events_B, edges=[0, 1, 3, 5, 10])
        values_B = hazard_loss(logits_BT, times.bins, events=times.events)
    """
    n_bins = logits.shape[-1]
    require_shape("bins", bins, logits.shape[:-1])
    require_shape("events", events, logits.shape[:-1])
    require_classes("bins", bins, n_bins)
    require_binary("events", events)
    ids = jnp.arange(n_bins)
    at_risk = ids <= bins[..., None]
    hit = (ids == bins[..., None]) & (events == 1)[..., None]
    # Select twice: a logit after the event does not matter, even if it is not finite,
    # and 0 * NaN is NaN in the gradient as well.
    logits = jnp.where(at_risk, logits.astype(jnp.float32), 0.0)
    # log sigmoid of either sign instead of log(1 - h): h rounds to 1 at logit 17.
    costs = -jax.nn.log_sigmoid(jnp.where(hit, logits, -logits))
    known = (bins >= 0) & (bins < n_bins)
    return nan_if(~known, jnp.sum(jnp.where(at_risk, costs, 0.0), axis=-1))


def discretize_times(
    times: Float[ArrayLike, "*batch"] | Int[ArrayLike, "*batch"],
    *,
    events: Int[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"],
    edges: Sequence[float | int] | ArrayLike,
) -> DiscreteTimes:
    """Put times into bins, and censor those past the last edge.

    Args:
      times: when the event happened, or observation ended, any shape and unit.
      events: 1 if the event was seen and 0 if it was censored, or booleans.
      edges: T + 1 increasing numbers; bin t holds edges[t] < time <= edges[t + 1].

    Returns:
      Bins and events of the same shape. A time past the last edge is censored in the
      last bin: it is known to have survived it, whatever happened then.

    Raises:
      ValueError: edges that do not increase, shapes that differ, an event that is
        neither 0 nor 1, or a time that is NaN or not above the first edge.
    """
    limits = np.asarray(edges)
    if limits.ndim != 1 or len(limits) < 2 or not np.all(np.diff(limits) > 0):
        raise ValueError(f"edges={edges}: must be two or more increasing numbers")
    times, events = jnp.asarray(times), jnp.asarray(events)
    require_shape("events", events, times.shape)
    require_binary("events", events)
    outside = ~(times > limits[0])  # True for NaN as well
    if not isinstance(outside, jax.core.Tracer) and outside.any():
        raise ValueError(
            f"times: holds {times[outside][0]}, must be above the first edge, "
            f"{limits[0]}"
        )
    bins = jnp.searchsorted(jnp.asarray(limits[1:]), times, side="left")
    past = times > limits[-1]
    inside = jnp.minimum(bins, len(limits) - 2).astype(jnp.int32)
    return DiscreteTimes(jnp.where(outside, -1, inside), (events == 1) & ~past)


def survival_curve(logits: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """Compute the probability of surviving to the end of each bin.

    Args:
      logits: logits of the hazard of each bin, shape (..., T); computed in float32.

    Returns:
      Probabilities of shape (..., T), float32, in [0, 1], that never increase. One
      minus the last, or the negative sum of them, is a risk for
      `metrics.concordance_index`.
    """
    # Logs, so that a product of many factors near 1 keeps its digits.
    return jnp.exp(jnp.cumsum(jax.nn.log_sigmoid(-logits.astype(jnp.float32)), axis=-1))
