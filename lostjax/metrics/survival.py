"""Scores of predicted risks, if some events were never seen (censored).

    concordance = (pairs in the right order + ties of risk / 2) / comparable pairs

Harrell et al., "Evaluating the yield of medical tests", JAMA, 1982. A pair can be
compared if it is known who had the event first: the earlier time is that of an event,
or both times are equal and only one of them is an event, which then came first. Two
events at one time cannot be compared. The pair is in the right order if who had the
event first has the higher risk. Without censoring this is (Somers' D + 1) / 2; it
depends on how much is censored, so that only equal data sets compare.

Uno et al., "On the C-statistics for evaluating overall adequacy of risk prediction
procedures with censored survival data", 2011, weigh each pair by 1 / G(T)^2, with T the
earlier time and G(t) the probability of not being censored by t. The estimate then does
not depend on how much is censored, if censoring does not depend on the risk.

The Brier score at a time t is weighted alike (Graf et al., "Assessment and comparison
of prognostic classification schemes for survival data", 1999):

    BS(t) = mean_i  S_i(t)^2 [T_i <= t, event] / G(T_i)
                    + (1 - S_i(t))^2 [T_i > t] / G(t)

Definitions are scikit-survival's: G is the Kaplan-Meier curve of censoring, continuous
from the right, and events come before what is censored at the same time. In one thing
ours differs: an example that counts but whose G is 0 or unknown makes the score NaN,
where scikit-survival raises an error or leaves the example out.

Cost: B^2 comparisons, in blocks of rows, B x BLOCK of them at once; a sort for G.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import (
    nan_if,
    require_binary,
    require_examples,
    require_increasing,
    require_shape,
)
from lostjax.metrics.censoring import Censoring, fit_censoring, uncensored_share
from lostjax.typing import Array, Bool, Float, Int, Scalar

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
    risks_B, times_B, seen_B = _ready("risks_B", risks_B, times_B, events_B)
    return _concordance(risks_B, times_B, seen_B, jnp.ones(len(risks_B)))


def uno_concordance_index(
    risks_B: Float[ArrayLike, "B"],
    times_B: Float[ArrayLike, "B"] | Int[ArrayLike, "B"],
    *,
    events_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
    horizon: Scalar = math.inf,
    censoring: Censoring | None = None,
) -> Float[Array, ""]:
    """Compute the concordance index weighted by the inverse probability of censoring.

    Args:
      risks_B: any numbers (B,), higher for an earlier event. B >= 1.
      times_B: when the event happened, or observation ended, (B,), in any unit.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).
      horizon: only pairs count whose earlier time is below it. Choose one below the
        last times, whose weights are large and uncertain.
      censoring: curve of the training data, as `fit_censoring` returns it; None to
        estimate it from these data.

    Returns:
      In [0, 1], float32; NaN if no pair can be compared, if a risk or a time is NaN, or
      if the probability of no censoring at an earlier time is 0 or unknown.

    Raises:
      ValueError: as `concordance_index`.
    """
    risks_B, times_B, seen_B = _ready("risks_B", risks_B, times_B, events_B)
    if censoring is None:
        censoring = fit_censoring(times_B, events_B=seen_B)
    weights_B = jnp.square(1 / uncensored_share(censoring, times_B))
    return _concordance(risks_B, times_B, seen_B & (times_B < horizon), weights_B)


def censored_brier_score(
    survival_BH: Float[ArrayLike, "B H"],
    times_B: Float[ArrayLike, "B"] | Int[ArrayLike, "B"],
    *,
    events_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
    horizons_H: Float[ArrayLike, "H"] | Int[ArrayLike, "H"],
    censoring: Censoring | None = None,
) -> Float[Array, "H"]:
    """Compute the Brier score at some times, weighted for censoring.

    Args:
      survival_BH: predicted probability of surviving each horizon (B, H), in [0, 1].
        B >= 1.
      times_B: when the event happened, or observation ended, (B,), in any unit.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).
      horizons_H: increasing times at which to score (H,), within the observed times.
      censoring: curve of the training data, as `fit_censoring` returns it; None to
        estimate it from these data.

    Returns:
      Scores (H,), float32, at least 0, less is better: .25 if all probabilities are .5
      and nothing is censored. NaN if a time or a probability is NaN, or if the
      probability of no censoring is 0 or unknown where it is needed.

    Raises:
      ValueError: no example, shapes that differ, an event that is neither 0 nor 1, or
        horizons that do not increase.
    """
    survival_BH, times_B, seen_B = _ready("survival_BH", survival_BH, times_B, events_B)
    horizons_H = jnp.asarray(horizons_H)
    require_shape("horizons_H", horizons_H, survival_BH.shape[1:])
    require_increasing("horizons_H", horizons_H)
    if censoring is None:
        censoring = fit_censoring(times_B, events_B=seen_B)
    alive_BH = times_B[:, None] > horizons_H
    case_BH = seen_B[:, None] & ~alive_BH
    case_weight_B1 = 1 / uncensored_share(censoring, times_B)[:, None]
    alive_weight_H = 1 / uncensored_share(censoring, horizons_H)
    # Select: the weight of an example that does not count may be infinite.
    error_BH = jnp.where(case_BH, jnp.square(survival_BH) * case_weight_B1, 0.0)
    error_BH += jnp.where(alive_BH, jnp.square(1 - survival_BH) * alive_weight_H, 0.0)
    score_H = jnp.mean(error_BH.astype(jnp.float32), axis=0)
    broken_H = jnp.any(jnp.isnan(survival_BH), axis=0) | jnp.any(jnp.isnan(times_B))
    return nan_if(broken_H | ~jnp.isfinite(score_H), score_H)


def integrated_brier_score(
    survival_BH: Float[ArrayLike, "B H"],
    times_B: Float[ArrayLike, "B"] | Int[ArrayLike, "B"],
    *,
    events_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
    horizons_H: Float[ArrayLike, "H"] | Int[ArrayLike, "H"],
    censoring: Censoring | None = None,
) -> Float[Array, ""]:
    """Compute the mean over time of `censored_brier_score`, by the trapezoidal rule.

    Args:
      survival_BH: predicted probability of surviving each horizon (B, H), in [0, 1].
      times_B: when the event happened, or observation ended, (B,), in any unit.
      events_B: 1 if the event was seen and 0 if it was censored, or booleans, (B,).
      horizons_H: two or more increasing times (H,), within the observed times.
      censoring: see `censored_brier_score`.

    Returns:
      At least 0, float32, less is better; NaN as `censored_brier_score`.

    Raises:
      ValueError: as `censored_brier_score`, or fewer than two horizons.
    """
    horizons_H = jnp.asarray(horizons_H)
    require_examples("horizons_H", horizons_H, at_least=2)
    score_H = censored_brier_score(
        survival_BH,
        times_B,
        events_B=events_B,
        horizons_H=horizons_H,
        censoring=censoring,
    )
    return jnp.trapezoid(score_H, horizons_H) / (horizons_H[-1] - horizons_H[0])


def _ready(
    name: str, answers: ArrayLike, times_B: ArrayLike, events_B: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check the arguments; return answers, times, and whether the event was seen."""
    answers, times_B = jnp.asarray(answers), jnp.asarray(times_B)
    events_B = jnp.asarray(events_B)
    require_examples(name, answers)
    require_shape("times_B", times_B, answers.shape[:1])
    require_shape("events_B", events_B, answers.shape[:1])
    require_binary("events_B", events_B)
    return answers, times_B, events_B == 1


def _concordance(
    risks_B: jax.Array, times_B: jax.Array, seen_B: jax.Array, weights_B: jax.Array
) -> jax.Array:
    """Compute the weighted share of pairs in the right order, by the first's weight."""
    unseen_B = ~seen_B

    def compare(one: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        """Count twice the won pairs, and the pairs, in which one is known first."""
        risk, time, seen = one
        later_B = (time < times_B) | ((time == times_B) & unseen_B)
        pair_B = seen & later_B
        won_B = (risk > risks_B).astype(jnp.int32) + (risk >= risks_B)
        return jnp.array([jnp.sum(won_B, where=pair_B), 2 * jnp.sum(pair_B)])

    block = min(BLOCK, len(risks_B))
    counts_B2 = jax.lax.map(compare, (risks_B, times_B, seen_B), batch_size=block)
    # The weight of an example without a pair may be infinite, and 0 * inf is NaN.
    weights_B = jnp.where(counts_B2[:, 1] > 0, weights_B, 0.0)
    # Exact for each row; the sum of all pairs may pass the range of int32.
    weighted_B2 = counts_B2.astype(jnp.float32) * weights_B[:, None]
    won, pairs = jnp.sum(weighted_B2, axis=0)
    broken = jnp.any(jnp.isnan(risks_B)) | jnp.any(jnp.isnan(times_B))
    return nan_if(broken, won / pairs)  # inf / inf and 0 / 0 are NaN
