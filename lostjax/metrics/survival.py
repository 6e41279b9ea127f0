"""Scores of predicted risks, if some events were never seen (censored).

    concordance = (pairs in the right order + ties of risk / 2) / comparable pairs

Harrell et al., "Evaluating the yield of medical tests", JAMA, 1982. A pair can be
compared if it is known who had the event first: the earlier time is that of an event,
or both times are equal and only one of them is an event, which then came first. Two
events at one time cannot be compared. The pair is in the right order if who had the
event first has the higher risk. Without censoring this is (Somers' D + 1) / 2; it
depends on how much is censored, so that only equal data sets compare.

Cost: B^2 comparisons, in blocks of rows, B x BLOCK of them at once.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.metrics.inputs import (
    nan_if,
    require_binary,
    require_examples,
    require_shape,
)
from lostjax.typing import Array, Bool, Float, Int

BLOCK = 64
"""Examples that are compared with all others at once."""


def concordance_index(
    risks_B: Float[ArrayLike, "B"],
    times_B: Float[ArrayLike, "B"] | Int[ArrayLike, "B"],
    *,
    events_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
) -> Float[Array, ""]:
    """Compute how often who has the event first has the higher predicted risk.

    Args:
      risks_B: any numbers (B,), higher for an earlier event; negate predicted times.
        B >= 1.
      times_B: when the event happened, or observation ended, (B,), in any unit.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).

    Returns:
      In [0, 1], float32: .5 for guesses or a constant; NaN if no pair can be compared,
      or if a risk or a time is NaN.

    Raises:
      ValueError: no example, shapes that differ, or an event that is neither 0 nor 1.
    """
    risks_B, times_B = jnp.asarray(risks_B), jnp.asarray(times_B)
    events_B = jnp.asarray(events_B)
    require_examples("risks_B", risks_B)
    require_shape("times_B", times_B, risks_B.shape)
    require_shape("events_B", events_B, risks_B.shape)
    require_binary("events_B", events_B)
    seen_B = events_B == 1

    def compare(one: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        """Count twice the won pairs, and the pairs, in which one is known first."""
        risk, time, seen = one
        later_B = (time < times_B) | ((time == times_B) & ~seen_B)
        pair_B = seen & later_B
        won_B = (risk > risks_B).astype(jnp.int32) + (risk >= risks_B)
        return jnp.array([jnp.sum(won_B, where=pair_B), 2 * jnp.sum(pair_B)])

    block = min(BLOCK, len(risks_B))
    counts_B2 = jax.lax.map(compare, (risks_B, times_B, seen_B), batch_size=block)
    # Exact for each row; the sum of all pairs may pass the range of int32.
    won, pairs = jnp.sum(counts_B2.astype(jnp.float32), axis=0)
    broken = jnp.any(jnp.isnan(risks_B)) | jnp.any(jnp.isnan(times_B))
    return nan_if(broken, won / pairs)
