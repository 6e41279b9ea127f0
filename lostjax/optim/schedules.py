"""Schedules: step -> learning rate, and epoch -> weight of a term.

    warm-up:  lr(t) = peak (t + 1) / warmup                          for t < warmup
    cosine:   lr(t) = floor + (peak - floor) (1 + cos(pi s)) / 2,    s = (t - w)/(T - w)

    wsd:      lr(t) = peak                                           for t < T - d
              lr(t) = floor + (peak - floor) (T - t) / d             for t >= T - d

with floor = final_fraction x peak (the recipe of GaLore and LORO: 10 % warm-up, cosine
to 10 %). The first step has a positive rate, because a step at rate 0 is wasted.

wsd (warmup-stable-decay; Hu et al., MiniCPM: Unveiling the Potential of Small Language
Models with Scalable Training Strategies, 2024, arXiv 2404.06395) keeps the peak until
the last d steps, so that a run can be extended before its decay. MiniCPM's decay is
exponential, ours linear, which has no parameter besides the floor. d = 0 is a constant
rate.

    window:   w(e) = value for start <= e < end, else 0
"""

import math

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lostjax.typing import Array


def warmup_cosine_schedule(
    peak: float, *, steps: int, warmup_steps: int, final_fraction: float = 0.1
) -> optax.Schedule:
    """Build a linear warm-up followed by half a cosine.

    Args:
      peak: largest learning rate, reached at the last step of the warm-up.
      steps: length of the schedule, at least 1; later steps keep the final rate.
      warmup_steps: in [0, steps).
      final_fraction: final rate as a fraction of the peak, in [0, 1].

    Returns:
      A function from step (0-based int or int array) to learning rate.

    Raises:
      ValueError: if an argument is out of range.
    """
    _check(steps, warmup_steps=warmup_steps, final_fraction=final_fraction)

    def schedule(step: ArrayLike) -> Array:
        # float32 for every kind of step: exact up to 2^24, and equal under jit.
        t = jnp.asarray(step, jnp.float32)
        # Clip: steps after the end keep the final rate instead of following the cosine
        # up again.
        progress = jnp.clip((t - warmup_steps) / (steps - warmup_steps), 0, 1)
        falling = final_fraction + (1 - final_fraction) * 0.5 * (
            1 + jnp.cos(jnp.pi * progress)
        )
        return peak * _warm_up(t, falling, warmup_steps=warmup_steps)

    return schedule


def warmup_stable_decay_schedule(
    peak: float,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    final_fraction: float = 0.1,
) -> optax.Schedule:
    """Build a linear warm-up, a constant rate, and a linear decay at the end.

    Args:
      peak: largest learning rate, reached at the last step of the warm-up.
      steps: length of the schedule, at least 1; later steps keep the final rate.
      warmup_steps: in [0, steps).
      decay_steps: in [0, steps - warmup_steps]; 0 for no decay.
      final_fraction: final rate as a fraction of the peak, in [0, 1].

    Returns:
      A function from step (0-based int or int array) to learning rate.

    Raises:
      ValueError: if an argument is out of range.
    """
    _check(steps, warmup_steps=warmup_steps, final_fraction=final_fraction)
    if not 0 <= decay_steps <= steps - warmup_steps:
        raise ValueError(
            f"decay_steps={decay_steps}: must lie in [0, {steps - warmup_steps}], the "
            "steps after the warm-up"
        )

    def schedule(step: ArrayLike) -> Array:
        t = jnp.asarray(step, jnp.float32)  # see `warmup_cosine_schedule`
        left = jnp.clip((steps - t) / max(decay_steps, 1), 0, 1)
        falling = final_fraction + (1 - final_fraction) * left
        # Chosen, not computed: the rate is the peak to the last bit until it decays.
        is_stable = (t < steps - decay_steps) | (decay_steps == 0)
        stable = jnp.where(is_stable, 1.0, falling)
        return peak * _warm_up(t, stable, warmup_steps=warmup_steps)

    return schedule


def window_schedule(
    value: float, *, start: float = 0.0, end: float = math.inf
) -> optax.Schedule:
    """Build a schedule that is constant within a window and 0 outside it.

    Args:
      value: value within the window.
      start: first epoch (or step) of the window, at least 0.
      end: first epoch after the window, above start; infinite for no end.

    Returns:
      A function from epoch or step (a number or an array, fractions allowed) to the
      value, float32.

    Raises:
      ValueError: if start is negative or not finite, or end is not above start.
    """
    if not 0 <= start < math.inf:
        raise ValueError(f"start={start}: must be at least 0 and finite")
    if not end > start:
        raise ValueError(f"end={end}: must be above start={start}")

    def schedule(epoch: ArrayLike) -> Array:
        e = jnp.asarray(epoch, jnp.float32)
        return jnp.where((start <= e) & (e < end), value, 0.0).astype(jnp.float32)

    return schedule


def _warm_up(t: Array, then: Array, *, warmup_steps: int) -> Array:
    # max avoids 0 / 0 without a warm-up, when `rising` is computed but not selected.
    rising = (t + 1) / max(warmup_steps, 1)
    return jnp.where(t < warmup_steps, rising, then)


def _check(steps: int, *, warmup_steps: int, final_fraction: float) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps={warmup_steps}: must lie in [0, steps={steps})")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction={final_fraction}: must lie in [0, 1]")
