"""Optimisation: optax transformations, memories of the past, schedules and masks."""

from lostjax.optim.masks import mask_decayed
from lostjax.optim.memory import (
    OutputMemory,
    init_memory,
    recall_outputs,
    write_outputs,
)
from lostjax.optim.past_params import (
    PastParamsState,
    get_past_params,
    track_lagged_params,
    track_past_params,
)
from lostjax.optim.schedules import warmup_cosine_schedule, window_schedule

__all__ = [
    "OutputMemory",
    "PastParamsState",
    "get_past_params",
    "init_memory",
    "mask_decayed",
    "recall_outputs",
    "track_lagged_params",
    "track_past_params",
    "warmup_cosine_schedule",
    "window_schedule",
    "write_outputs",
]
