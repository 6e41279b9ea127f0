"""Losses and weights: how wrong an answer is, and how much an example counts."""

from lostjax.losses.language import (
    log_partition_penalty,
    next_token_loss,
    smoothing_penalty,
)
from lostjax.losses.reduce import sequence_means, weighted_mean, weighted_sums
from lostjax.losses.trajectory import (
    TopOutputs,
    compress_outputs,
    compressed_trajectory_loss,
    trajectory_loss,
)
from lostjax.losses.weighting import (
    Shape,
    extremes,
    lin_upper,
    quadratic,
    sample_weights,
    temperature_schedule,
    upper,
)

__all__ = [
    "Shape",
    "TopOutputs",
    "compress_outputs",
    "compressed_trajectory_loss",
    "extremes",
    "lin_upper",
    "log_partition_penalty",
    "next_token_loss",
    "quadratic",
    "sample_weights",
    "sequence_means",
    "smoothing_penalty",
    "temperature_schedule",
    "trajectory_loss",
    "upper",
    "weighted_mean",
    "weighted_sums",
]
