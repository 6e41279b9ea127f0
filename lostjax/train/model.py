"""From the names of a configuration to the functions that a model is made of.

The library passes functions; only here do names (`residual`, `svd`, `bottleneck`)
stand for them, so that a command line can choose.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax import nn as layers
from lostjax.optim import width_multipliers
from lostjax.train.config import ConfigError, ModelConfig
from lostjax.train.state import abstract_variables
from lostjax.train.widths import at_width
from lostjax.typing import PyTree

CHANNELS: dict[str, Callable[..., jax.Array]] = {
    "residual": layers.residual_norm_channels,
    "random": layers.random_channels,
    "largest": layers.largest_channels,
}
FACTORS: dict[str, Callable[..., Any]] = {
    "svd": layers.svd_factors,
    "scaled_normal": layers.scaled_normal_factors,
}
ACTIVATIONS = {"silu": nn.silu, "none": None}
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "products": layers.save_products,
    "bottleneck": layers.save_bottlenecks,
}


def build_linear(config: ModelConfig) -> layers.MakeLinear:
    """Choose the linear layer; call it with features, name, channel_groups, dtype."""
    start = nn.initializers.normal(0.02 * _narrowing(config) ** 0.5)
    kinds: dict[str, layers.MakeLinear] = {
        "dense": partial(layers.Dense, kernel_init=start),
        "low_rank": partial(
            layers.LowRank,
            rank=config.rank,
            factorize=FACTORS[config.factors],
            kernel_init=start,
        ),
        "cola": partial(
            layers.LowRank,
            rank=config.rank,
            activation=ACTIVATIONS[config.activation],
            factorize=layers.scaled_normal_factors,
        ),
        "sltrain": partial(layers.SLTrain, rank=config.rank, delta=config.delta),
        "lost": partial(
            layers.LowRankSparse,
            rank=config.rank,
            delta=config.delta,
            gamma=config.gamma,
            learn_gamma=config.learn_gamma,
            activation=ACTIVATIONS[config.activation],
            factorize=FACTORS[config.factors],
            choose_channels=CHANNELS[config.channels],
            correct_variance=config.correct_variance,
            kernel_init=start,
        ),
    }
    make = kinds[config.linear]
    return make if config.linear == "lost" else layers.Ungrouped(make)


def build_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> layers.Transformer:
    """Build the model that a configuration describes.

    Args:
      config: see `ModelConfig`; already checked.
      vocab_size: size of the vocabulary V.
      constrain: applied to the residual stream (B, T, D), for its sharding.

    Returns:
      A Transformer module, without parameters.
    """
    return layers.Transformer(
        vocab_size=vocab_size,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_hidden=config.d_hidden,
        head_init=nn.initializers.normal(0.02 * _narrowing(config)),
        linear=build_linear(config),
        mlp_activation=nn.silu if config.keep_swiglu_silu else None,
        qk_norm=config.qk_norm,
        dtype=jnp.dtype(config.dtype),
        remat=REMAT[config.remat],
        channel_groups=config.channel_groups,
        constrain=constrain,
    )


def build_multipliers(config: ModelConfig, *, vocab_size: int) -> PyTree | None:
    """Compute every tensor's learning-rate multiplier, see `optim.width_scaling`.

    Args:
      config: see `ModelConfig`; already checked.
      vocab_size: size of the vocabulary V.

    Returns:
      A nest of floats like the parameters'; None where the rates are the usual ones.

    Raises:
      ConfigError: where this model or the narrow one cannot be made.
    """
    if not config.base_width:
        return None
    try:
        wide, base = (
            abstract_variables(build_model(sizes, vocab_size=vocab_size))["params"]
            for sizes in (config, at_width(config, config.base_width))
        )
    except ValueError as error:  # a layer refuses sizes that do not fit it
        raise ConfigError(f"--model.base-width={config.base_width}: {error}") from None
    return width_multipliers(wide, base)


def _narrowing(config: ModelConfig) -> float:
    """Give base width / width: 1 where the parameterisation is the usual one."""
    return config.base_width / config.d_model if config.base_width else 1.0
