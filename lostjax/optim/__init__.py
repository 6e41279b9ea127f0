"""Optimisation: optax transformations, schedules and masks."""

from lostjax.optim.masks import mask_decayed
from lostjax.optim.schedules import warmup_cosine_schedule

__all__ = ["mask_decayed", "warmup_cosine_schedule"]
