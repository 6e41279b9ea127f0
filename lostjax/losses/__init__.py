"""Losses and weights: how wrong an answer is, and how much an example counts."""

from lostjax.losses.language import log_partition_penalty, next_token_loss
from lostjax.losses.reduce import weighted_mean, weighted_sums

__all__ = [
    "log_partition_penalty",
    "next_token_loss",
    "weighted_mean",
    "weighted_sums",
]
