"""From the configuration to an optax chain and its learning-rate schedule."""

import math

import optax

from lostjax.optim import mask_decayed, scale_by_tensor, warmup_cosine_schedule
from lostjax.train.config import OptimConfig
from lostjax.typing import PyTree


def build_optimizer(
    config: OptimConfig, *, steps: int, multipliers: PyTree | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Build clip -> Adam -> decoupled decay of matrices -> learning rate.

    Args:
      config: see `OptimConfig`; already checked.
      steps: length of the schedule.
      multipliers: of the learning rate, by tensor; None for all 1.

    Returns:
      The transformation and its schedule (step -> learning rate).
    """
    schedule = warmup_cosine_schedule(
        config.learning_rate,
        steps=steps,
        warmup_steps=min(math.ceil(config.warmup * steps), steps - 1),
        final_fraction=config.final_fraction,
    )
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
    if multipliers is not None:
        parts.append(scale_by_tensor(multipliers))
    if config.weight_decay:
        decay = config.weight_decay
        if config.independent_decay:
            decay /= config.learning_rate  # undone by the schedule, but for its shape
        parts.append(optax.add_decayed_weights(decay, mask=mask_decayed))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts), schedule
