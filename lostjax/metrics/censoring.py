"""The curve of censoring: how likely it is that an observation has not ended by t.

    G(t) = prod_{s <= t} (1 - censored at s / at risk of being censored at s)

the Kaplan-Meier estimate with censoring in the place of the event. An event comes
before what is censored at the same time, so whoever has it is no longer at risk; the
curve is continuous from the right. Both as in scikit-survival. Scores of survival weigh
what was seen by 1 / G to stand for what was censored.

Cost: a sort.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import nan_if, require_binary, require_examples, require_shape
from lostjax.typing import Array, Bool, Float, Int


class Censoring(NamedTuple):
    """The Kaplan-Meier curve of censoring."""

    times_B: Float[Array, "B"]
    """All times, sorted."""
    survival_B: Float[Array, "B"]
    """Probability of not being censored up to and including each time; of equal times
    the last entry is valid."""


def fit_censoring(
    times_B: Float[ArrayLike, "B"] | Int[ArrayLike, "B"],
    *,
    events_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
) -> Censoring:
    """Estimate the probability of not being censored by each time.

    Args:
      times_B: when the event happened, or observation ended, (B,); B >= 1.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).

    Returns:
      The Kaplan-Meier curve of censoring; 1 throughout if nothing was censored.

    Raises:
      ValueError: no example, shapes that differ, or an event that is neither 0 nor 1.
    """
    times_B, events_B = jnp.asarray(times_B), jnp.asarray(events_B)
    require_examples("times_B", times_B)
    require_shape("events_B", events_B, times_B.shape)
    require_binary("events_B", events_B)
    order_B = jnp.argsort(times_B)
    times_B, seen_B = times_B[order_B], events_B[order_B] == 1
    first_B = jnp.searchsorted(times_B, times_B, side="left")
    last_B = jnp.searchsorted(times_B, times_B, side="right")
    events_upto = jnp.append(0, jnp.cumsum(seen_B))
    events_at_B = events_upto[last_B] - events_upto[first_B]
    # Events come first: they are no longer at risk of being censored at their time.
    at_risk_B = len(times_B) - first_B - events_at_B
    censored_B = last_B - first_B - events_at_B
    share_B = censored_B / jnp.maximum(at_risk_B, 1)
    # One factor for all examples of a time, at the last of them.
    is_last_B = jnp.arange(len(times_B)) == last_B - 1
    survival_B = jnp.cumprod(jnp.where(is_last_B, 1 - share_B, 1.0))
    return Censoring(times_B.astype(jnp.float32), survival_B.astype(jnp.float32))


def uncensored_share(censoring: Censoring, times: jax.Array) -> jax.Array:
    """Look up G at times; NaN past the last one, unless the curve has come to 0."""
    at = jnp.searchsorted(censoring.times_B, times, side="right") - 1
    value = jnp.where(at < 0, 1.0, censoring.survival_B[at])
    unknown = (times > censoring.times_B[-1]) & (censoring.survival_B[-1] > 0)
    return nan_if(unknown, value)
