"""Layers and models: Flax linen modules, kernels (in, out)."""

from lostjax.nn.channels import (
    count_channels,
    largest_channels,
    random_channels,
    residual_norm_channels,
    select_channels,
)
from lostjax.nn.factorize import (
    Factors,
    InitialMatrix,
    scaled_normal_factors,
    svd_factors,
    top_singular_triples,
)
from lostjax.nn.kernels.bottleneck import save_bottlenecks
from lostjax.nn.linear import Dense, LowRank
from lostjax.nn.lowrank_sparse import LowRankSparse
from lostjax.nn.projection import Linear, project
from lostjax.nn.sltrain import SLTrain
from lostjax.nn.transformer import Transformer

__all__ = [
    "Dense", "Factors", "InitialMatrix", "Linear", "LowRank", "LowRankSparse",
    "SLTrain", "Transformer", "count_channels", "largest_channels", "project", "random_channels",
    "residual_norm_channels", "save_bottlenecks", "scaled_normal_factors",
    "select_channels", "svd_factors", "top_singular_triples",
]
