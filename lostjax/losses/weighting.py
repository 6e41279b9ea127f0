"""Dynamic reweighting of examples by their present losses.

    h_i = (2 l_i - max l - min l) / (max l - min l)                      in [-1, 1]
    w_i = p_i exp(f(h_i) / r) / sum_j p_j exp(f(h_j) / r)

The weights are the closed-form solution of max_w sum_i w_i f(h_i) - r KL(w || p). The
function f determines which losses matter; the temperature r limits how far w can move
from the prior p. Since f lies in [0, 1], the ratio of two weights changes by at most
e^(1/r).

    lin_upper   min(h + 1, 1)     rises to the middle of the range, then constant
    quadratic   1 - h^2           prefers the middle of the range
    extremes    |h|               prefers both ends of the range
    upper       (h + 1) / 2       rises over the whole range

Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model
Pretraining", 2025, arXiv:2502.06733. The paper proposes the first three; the fourth
appears only in the authors' code. This implementation differs in two ways. It has a
prior, so that examples of different lengths count by length and padding does not count.
It takes the extremes over the array that is passed, which under `jax.jit` is the global
batch on any number of devices and processes. (The authors' code for 7B parameters
indexes the weights by the rank within a host, so all hosts use the weights of the
first one.)

Compute the mean over each example's tokens first (`sequence_means`), then the weights.
With gradient accumulation the weights need all losses of the batch before the first
gradient, which costs one additional forward pass over the micro-batches. For a single
large batch there is no additional cost.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import require_shape
from lostjax.losses.reduce import require_one_per_example
from lostjax.typing import Array, Float

Shape = Callable[[Float[Array, "B"]], Float[Array, "B"]]
"""Maps a loss's relative position h in [-1, 1] to its importance."""

SMALLEST_RANGE = 1e-6
"""Lower bound of max l - min l in the denominator: losses that differ only by rounding
get nearly equal weights."""


def lin_upper(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Score losses linearly up to the middle of the range, and constantly above it.

    Only easy examples lose weight.

    Args:
      h_B: relative position of each loss in the batch's range, in [-1, 1], shape (B,).

    Returns:
      Scores (B,): 0 at the smallest loss, 1 from the middle of the range upwards.
    """
    return jnp.minimum(h_B + 1, 1)


def quadratic(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Score losses highest in the middle of the range: neither learnt nor hopeless.

    Args:
      h_B: relative position of each loss in the batch's range, in [-1, 1], shape (B,).

    Returns:
      Scores (B,): 0 at both ends of the range, 1 in the middle.
    """
    return 1 - jnp.square(h_B)


def extremes(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Score losses highest at both ends of the range; a negative control.

    Args:
      h_B: relative position of each loss in the batch's range, in [-1, 1], shape (B,).

    Returns:
      Scores (B,): 0 in the middle of the range, 1 at both ends.
    """
    return jnp.abs(h_B)


def upper(h_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """Score losses linearly over the whole range, so that outliers score highest.

    Args:
      h_B: relative position of each loss in the batch's range, in [-1, 1], shape (B,).

    Returns:
      Scores (B,): 0 at the smallest loss, 1 at the largest.
    """
    return (h_B + 1) / 2


def sample_weights(
    losses_B: Float[Array, "B"],
    *,
    shape: Shape = lin_upper,
    temperature: float | int | Float[Array, ""] = 1.0,
    prior_B: Float[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Compute the weights of all examples of a batch from their losses.

    If all losses are equal, or there is a single example, the weights equal the
    normalised prior. If any loss with a positive prior is not finite, all weights are
    NaN, so that a diverged batch stays visible.

    Args:
      losses_B: one loss per example of the global batch, B >= 1; computed in float32.
        Under `jax.shard_map`, gather the losses first.
      shape: importance of a loss: `lin_upper`, `quadratic`, `extremes`, `upper`, or any
        other function of h.
      temperature: r > 0; infinity returns the normalised prior exactly. A traced value
        is not checked.
      prior_B: non-negative weights before reweighting, up to a common factor, such as
        the number of tokens of each example; None for uniform. An example of prior 0
        gets weight 0, and its loss may have any value.

    Returns:
      Weights (B,), float32, with sum 1; all 0 if no prior is positive. No gradient
      flows through them.

    Raises:
      ValueError: if there is no example or more than one axis, the temperature is not
        positive, or `shape` is not a function.

    Example:
        losses_B = sequence_means(next_token_loss(logits_BTV, targets_BT), weights_BT)
        loss = jnp.sum(sample_weights(losses_B, temperature=0.4) * losses_B)
    """
    _require_temperature(temperature)
    require_one_per_example("losses_B", losses_B)
    if not callable(shape):
        known = {each.__name__ for each in (lin_upper, quadratic, extremes, upper)}
        use = f"; use shape=losses.{shape}" if shape in known else ""
        raise ValueError(f"shape={shape!r}: must be a function of h{use}")
    if prior_B is not None:
        require_shape("prior_B", prior_B, losses_B.shape)
    if not losses_B.size:
        raise ValueError("losses_B=[]: must hold at least one example")
    losses_B = losses_B.astype(jnp.float32)
    prior_B = jnp.ones_like(losses_B) if prior_B is None else prior_B
    counts_B = prior_B > 0
    score_B = shape(_place_in_range(losses_B, counts_B))
    # Subtracting the largest score keeps exp from overflowing at low temperatures.
    best = jnp.max(score_B, where=counts_B, initial=-jnp.inf)
    raised_B = prior_B.astype(jnp.float32) * jnp.exp((score_B - best) / temperature)
    # 0 * NaN is NaN: exclude examples of prior 0 by selection, not by their factor.
    raised_B = jnp.where(counts_B, raised_B, 0.0)
    total = jnp.sum(raised_B)
    # Constants of the step: with a gradient, the model could lower the weighted loss by
    # shifting weight between examples.
    return jax.lax.stop_gradient(raised_B / jnp.where(total == 0, 1.0, total))


def temperature_schedule(
    temperature: float | int, *, uniform_steps: int
) -> Callable[[ArrayLike], Array]:
    """Build a temperature schedule that is infinite (uniform weights) during a warm-up.

    Early in training, losses reflect how rare an example's tokens are rather than how
    much the model can learn from it.

    Args:
      temperature: r > 0 after the warm-up.
      uniform_steps: number of warm-up steps, >= 0.

    Returns:
      A function from step (0-based int or int array) to temperature.

    Raises:
      ValueError: if an argument is out of range.
    """
    _require_temperature(temperature)
    if uniform_steps < 0:
        raise ValueError(f"uniform_steps={uniform_steps}: must be 0 or positive")

    def schedule(step: ArrayLike) -> Array:
        return jnp.where(jnp.asarray(step) < uniform_steps, jnp.inf, temperature)

    return schedule


def _place_in_range(losses_B: Float[Array, "B"], counts_B: Array) -> Float[Array, "B"]:
    """Map losses with positive prior to [-1, 1]: smallest to -1, largest to 1.

    Equal losses map to 0.
    """
    low = jnp.min(losses_B, where=counts_B, initial=jnp.inf)
    high = jnp.max(losses_B, where=counts_B, initial=-jnp.inf)
    # Subtract before adding: 2 l - high - low cancels the significant digits if the
    # losses are close to each other.
    width = jnp.maximum(high - low, SMALLEST_RANGE)
    return ((losses_B - low) - (high - losses_B)) / width


def _require_temperature(temperature: float | int | Float[Array, ""]) -> None:
    # A traced value has no number to check yet.
    if isinstance(temperature, jax.core.Tracer):
        return
    if math.isnan(float(temperature)) or float(temperature) <= 0:
        raise ValueError(f"temperature={temperature}: must be above 0")
