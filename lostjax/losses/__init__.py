"""Losses and weights: how wrong an answer is, and how much an example counts."""

from lostjax.losses.language import log_partition_penalty, next_token_loss
from lostjax.losses.reduce import weighted_mean, weighted_sums
from lostjax.losses.trajectory import (
    TopOutputs,
    compress_outputs,
    compressed_trajectory_loss,
    trajectory_loss,
)

__all__ = [
    "TopOutputs",
    "compress_outputs",
    "compressed_trajectory_loss",
    "log_partition_penalty",
    "next_token_loss",
    "trajectory_loss",
    "weighted_mean",
    "weighted_sums",
]
