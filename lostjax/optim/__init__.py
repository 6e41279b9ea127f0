"""Optimisation: optax transformations, schedules and masks."""

from lostjax.optim.masks import mask_decayed
from lostjax.optim.schedules import warmup_cosine_schedule
from lostjax.optim.width_scaling import scale_by_tensor, width_multipliers

__all__ = [
    "mask_decayed",
    "scale_by_tensor",
    "warmup_cosine_schedule",
    "width_multipliers",
]
