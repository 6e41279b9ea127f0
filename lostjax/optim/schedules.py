"""Learning-rate schedules: step -> learning rate.

    warm-up:  lr(t) = peak (t + 1) / warmup                          for t < warmup
    cosine:   lr(t) = floor + (peak - floor) (1 + cos(pi s)) / 2,    s = (t - w)/(T - w)

with floor = final_fraction x peak (the GaLore / LORO recipe: 10 % warm-up, cosine to
10 %). The first step already has a positive rate: an optimiser step at rate 0 is a
step wasted.
"""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lostjax.typing import Array


def warmup_cosine_schedule(
    peak: float, *, steps: int, warmup_steps: int, final_fraction: float = 0.1
) -> optax.Schedule:
    """Build linear warm-up followed by a half cosine.

    Args:
      peak: the largest learning rate, reached at the last step of the warm-up.
      steps: length of the whole schedule; later steps stay at the final rate.
      warmup_steps: in [0, steps).
      final_fraction: the final rate as a fraction of the peak, in [0, 1].

    Returns:
      A function from step (0-based int or int array) to learning rate.

    Raises:
      ValueError: where an argument is outside its range.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: a schedule has at least 1 step")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps={warmup_steps}: must lie in [0, steps={steps})")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction={final_fraction}: must lie in [0, 1]")

    def schedule(step: ArrayLike) -> Array:
        t = jnp.asarray(step, jnp.float32)
        rising = (t + 1) / max(warmup_steps, 1)
        progress = jnp.clip((t - warmup_steps) / (steps - warmup_steps), 0, 1)
        falling = final_fraction + (1 - final_fraction) * 0.5 * (
            1 + jnp.cos(jnp.pi * progress)
        )
        return peak * jnp.where(t < warmup_steps, rising, falling)

    return schedule
