"""Layers and models: Flax linen modules, kernels (in, out)."""

from lostjax.nn.initializers.channels import (
    count_channels,
    largest_channels,
    random_channels,
    residual_norm_channels,
    select_channels,
)
from lostjax.nn.initializers.factorize import (
    Factors,
    InitialMatrix,
    scaled_normal_factors,
    svd_factors,
    top_singular_triples,
)
from lostjax.nn.kernels.bottleneck import save_bottlenecks
from lostjax.nn.linear.lowrank_sparse import LowRankSparse
from lostjax.nn.linear.plain import Dense, LowRank
from lostjax.nn.linear.projection import Linear, project
from lostjax.nn.linear.sltrain import SLTrain

__all__ = [
    "Dense",
    "Factors",
    "InitialMatrix",
    "Linear",
    "LowRank",
    "LowRankSparse",
    "SLTrain",
    "count_channels",
    "largest_channels",
    "project",
    "random_channels",
    "residual_norm_channels",
    "save_bottlenecks",
    "scaled_normal_factors",
    "select_channels",
    "svd_factors",
    "top_singular_triples",
]

# The model.
from lostjax.nn.attention.mask import causal_bias
from lostjax.nn.attention.rotary import Rotation, rotary_angles, rotate
from lostjax.nn.budget import rank_for_budget
from lostjax.nn.decoding import cut_logits, sample_tokens
from lostjax.nn.flops import Flops, count_flops
from lostjax.nn.linear.projection import MakeLinear, Ungrouped
from lostjax.nn.memory import Memory, activation_bytes, count_memory
from lostjax.nn.networks.autoencoder import Posterior, VariationalAutoencoder
from lostjax.nn.networks.conv import ConvNet
from lostjax.nn.networks.denoiser import (
    Denoise,
    Denoiser,
    add_noise,
    cosine_signals,
    draw_images,
    find_noise,
)
from lostjax.nn.networks.mlp import MLP
from lostjax.nn.networks.nested_dropout import NestedDropout, truncation_sweep
from lostjax.nn.networks.patches import PatchEncoder
from lostjax.nn.norm import RMSNorm
from lostjax.nn.parameters import Parameters, count_parameters
from lostjax.nn.reading import attention_maps, embed_tokens, embedded_logits
from lostjax.nn.remat import RematPolicy, save_products
from lostjax.nn.transformer import Transformer

__all__ += [
    "ConvNet",
    "Denoise",
    "Denoiser",
    "Flops",
    "MLP",
    "MakeLinear",
    "Memory",
    "NestedDropout",
    "Parameters",
    "PatchEncoder",
    "Posterior",
    "RMSNorm",
    "RematPolicy",
    "Rotation",
    "Transformer",
    "Ungrouped",
    "VariationalAutoencoder",
    "activation_bytes",
    "add_noise",
    "attention_maps",
    "causal_bias",
    "cosine_signals",
    "count_flops",
    "count_memory",
    "count_parameters",
    "cut_logits",
    "draw_images",
    "embed_tokens",
    "embedded_logits",
    "find_noise",
    "rank_for_budget",
    "rotary_angles",
    "rotate",
    "sample_tokens",
    "save_products",
    "truncation_sweep",
]
