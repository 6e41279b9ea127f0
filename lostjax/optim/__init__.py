"""Optimisation: optax transformations, memories of the past, schedules and masks."""

from lostjax.optim import factored_output as factored_output
from lostjax.optim.masks import MaskUpdatesState, mask_decayed, mask_updates
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
from lostjax.optim.saliency import saliency_mask, score_saliency
from lostjax.optim.schedules import (
    warmup_cosine_schedule,
    warmup_stable_decay_schedule,
    window_schedule,
)
from lostjax.optim.splitting.adaptive import (
    active_fraction,
    falling_density,
    grown_gap,
    resize_density,
    state_bytes,
)
from lostjax.optim.splitting.matrices import find_matrices
from lostjax.optim.splitting.optimizers import frugal
from lostjax.optim.splitting.orthonormal import (
    gradient_svd,
    longer_side,
    random_orthonormal,
    shorter_side,
)
from lostjax.optim.splitting.placement import state_shardings
from lostjax.optim.splitting.refresh import KEEP, REPROJECT, RESET
from lostjax.optim.splitting.strata import columns, coordinates, rows
from lostjax.optim.splitting.subspace import (
    Subspace,
    ascending_order,
    blocks,
    descending_order,
    mirror_order,
    random_order,
)
from lostjax.optim.splitting.transform import FrugalState, scale_by_frugal
from lostjax.optim.stacking import stack_layers
from lostjax.optim.width_scaling import scale_by_tensor, width_multipliers

__all__ = [
    "KEEP",
    "REPROJECT",
    "RESET",
    "FrugalState",
    "MaskUpdatesState",
    "OutputMemory",
    "PastParamsState",
    "Subspace",
    "active_fraction",
    "ascending_order",
    "blocks",
    "columns",
    "coordinates",
    "descending_order",
    "falling_density",
    "find_matrices",
    "frugal",
    "get_past_params",
    "gradient_svd",
    "grown_gap",
    "init_memory",
    "longer_side",
    "mask_decayed",
    "mask_updates",
    "mirror_order",
    "random_order",
    "random_orthonormal",
    "recall_outputs",
    "resize_density",
    "rows",
    "saliency_mask",
    "scale_by_frugal",
    "scale_by_tensor",
    "score_saliency",
    "shorter_side",
    "stack_layers",
    "state_bytes",
    "state_shardings",
    "track_lagged_params",
    "track_past_params",
    "warmup_cosine_schedule",
    "warmup_stable_decay_schedule",
    "width_multipliers",
    "window_schedule",
    "write_outputs",
]
