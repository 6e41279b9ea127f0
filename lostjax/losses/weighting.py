"""Dynamic reweighting: how much each example counts, from how large its loss is now.

    h_i = (2 l_i - max l - min l) / (max l - min l)                      in [-1, 1]
    w_i = p_i exp(f(h_i) / r) / sum_j p_j exp(f(h_j) / r)

the closed form of max_w sum_i w_i f(h_i) - r KL(w || p): f says which losses matter,
the temperature r how far w may go from the prior p. As f lies in [0, 1], no example is
raised above another by more than e^(1/r).

    lin_upper   min(h + 1, 1)     rises to the middle of the range, then is flat
    quadratic   1 - h^2           the middle of the range
    extremes    |h|               both of its ends
    upper       (h + 1) / 2       rises over the whole range

Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model
Pretraining", 2025, arXiv:2502.06733, which proposes the first three; the fourth is in
its authors' code alone. Ours differs in the prior, so that examples of unequal length
can count by their length and padding not at all, and in where the extremes are taken:
over the array that is given, which under `jax.jit` is the global batch on any number of
devices and processes. (The authors' code for 7B parameters looks its weights up by the
rank within a host; every host but the first then has the first one's weights.)

Take the mean over the tokens of each example first (`sequence_means`), then weigh. With
accumulation the weights need every loss of the batch before the first gradient: the
price is one more forward pass over the micro-batches. On one large batch it is nothing.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.typing import Array, Float

Shape = Callable[[Float[Array, "B"]], Float[Array, "B"]]
"""From a loss's place in the batch's range, h in [-1, 1], to how much it matters."""

SMALLEST_RANGE = 1e-6
"""The range of losses is divided by at least this: rounding is not ranked."""


def lin_upper(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Lower easy examples only: rise to the middle of the range, then stay.

    Args:
      h_B: where each loss lies in the batch's range, from -1 to 1.

    Returns:
      Scores from 0 at the smallest loss to 1 from the middle on.
    """
    return jnp.minimum(h_B + 1, 1)


def quadratic(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Prefer the middle of the range: neither the learnt nor the hopeless.

    Args:
      h_B: where each loss lies in the batch's range, from -1 to 1.

    Returns:
      Scores from 0 at both ends to 1 in the middle.
    """
    return 1 - jnp.square(h_B)


def extremes(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Prefer both ends of the range; a control that ought to do worse.

    Args:
      h_B: where each loss lies in the batch's range, from -1 to 1.

    Returns:
      Scores from 0 in the middle to 1 at both ends.
    """
    return jnp.abs(h_B)


def upper(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Prefer the upper end of the range: the harder, the more, outliers most of all.

    Args:
      h_B: where each loss lies in the batch's range, from -1 to 1.

    Returns:
      Scores from 0 at the smallest loss to 1 at the largest.
    """
    return (h_B + 1) / 2


def sample_weights(
    losses_B: Float[Array, "B"],
    *,
    shape: Shape = lin_upper,
    temperature: float | int | Float[Array, ""] = 1.0,
    prior_B: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Weigh the examples of a whole batch by their losses.

    Equal losses give back the prior, and so does a single example. A loss that counts
    and is not finite makes every weight NaN: a batch that diverged shows as one.

    Args:
      losses_B: one loss for each example of the global batch, B >= 1; computed in
        float32. Under `jax.shard_map` gather them first.
      shape: which losses matter; `lin_upper`, `quadratic`, `extremes`, `upper` or
        another function of h.
      temperature: r > 0; infinity gives back the prior exactly. A traced value is not
        checked.
      prior_B: the weights without any reweighting up to a factor, non-negative, such
        as each example's number of tokens; None for all equal. An example at zero
        stays out: its loss may be anything, its weight is 0.

    Returns:
      Weights (B,), float32, that sum to 1; all 0 where no prior is above 0. No
      gradient flows through them.

    Raises:
      ValueError: no example, or a temperature that is not above 0.

    Example:
        losses_B = sequence_means(next_token_loss(logits_BTV, targets_BT), weights_BT)
        loss = jnp.sum(sample_weights(losses_B, temperature=0.4) * losses_B)
    """
    _require_temperature(temperature)
    if not losses_B.size:
        raise ValueError("losses_B=[]: needs at least one example")
    losses_B = losses_B.astype(jnp.float32)
    prior_B = jnp.ones_like(losses_B) if prior_B is None else prior_B
    counts_B = prior_B > 0
    score_B = shape(_place_in_range(losses_B, counts_B))
    best = jnp.max(score_B, where=counts_B, initial=-jnp.inf)
    raised_B = prior_B.astype(jnp.float32) * jnp.exp((score_B - best) / temperature)
    raised_B = jnp.where(counts_B, raised_B, 0.0)
    total = jnp.sum(raised_B)
    return jax.lax.stop_gradient(raised_B / jnp.where(total == 0, 1.0, total))


def temperature_schedule(
    temperature: float | int, *, uniform_steps: int
) -> Callable[[ArrayLike], Array]:
    """Build a temperature that is infinite at first, so that all examples count alike.

    At the start losses say how rare an example's tokens are, not how much there is to
    learn from it.

    Args:
      temperature: r > 0 after the warm-up.
      uniform_steps: steps of the warm-up, >= 0.

    Returns:
      A function from step (0-based int or int array) to temperature.

    Raises:
      ValueError: where an argument is outside its range.
    """
    _require_temperature(temperature)
    if uniform_steps < 0:
        raise ValueError(f"uniform_steps={uniform_steps}: must be 0 or positive")

    def schedule(step: ArrayLike) -> Array:
        return jnp.where(jnp.asarray(step) < uniform_steps, jnp.inf, temperature)

    return schedule


def _place_in_range(losses_B: Float[Array, "B"], counts_B: Array) -> Float[Array, "B"]:
    """Map the smallest loss that counts to -1, the largest to 1; equal ones to 0."""
    low = jnp.min(losses_B, where=counts_B, initial=jnp.inf)
    high = jnp.max(losses_B, where=counts_B, initial=-jnp.inf)
    # Differences first: 2 l - high - low would lose the digits that matter.
    width = jnp.maximum(high - low, SMALLEST_RANGE)
    return ((losses_B - low) - (high - losses_B)) / width


def _require_temperature(temperature: float | int | Float[Array, ""]) -> None:
    if isinstance(temperature, jax.core.Tracer):
        return
    if math.isnan(float(temperature)) or float(temperature) <= 0:
        raise ValueError(f"temperature={temperature}: must be above 0")
