"""Optimisation: optax transformations, schedules and masks."""

from lostjax.optim.masks import mask_decayed
from lostjax.optim.matrices import find_matrices
from lostjax.optim.orthonormal import gradient_svd, random_orthonormal
from lostjax.optim.refresh import KEEP, REPROJECT, RESET
from lostjax.optim.schedules import warmup_cosine_schedule
from lostjax.optim.splitting import FrugalState, frugal, scale_by_frugal
from lostjax.optim.strata import columns, coordinates, rows
from lostjax.optim.subspace import (
    Subspace,
    ascending_order,
    blocks,
    descending_order,
    mirror_order,
    random_order,
)

__all__ = [
    "KEEP",
    "REPROJECT",
    "RESET",
    "FrugalState",
    "Subspace",
    "ascending_order",
    "blocks",
    "columns",
    "coordinates",
    "descending_order",
    "find_matrices",
    "frugal",
    "gradient_svd",
    "mask_decayed",
    "mirror_order",
    "random_order",
    "random_orthonormal",
    "rows",
    "scale_by_frugal",
    "warmup_cosine_schedule",
]
