"""From the names of a configuration to the functions that a model is made of.

The library passes functions; only here do names (`residual`, `svd`, `bottleneck`)
stand for them, so that a command line can choose.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from lostjax import nn as layers
from lostjax.nn.attention.attention import Attend, plain_attention
from lostjax.nn.attention.blocked import blocked_attention
from lostjax.nn.kernels.gpu import products as mosaic_gpu
from lostjax.nn.kernels.tpu import products as mosaic_tpu
from lostjax.nn.kernels.bottleneck import BottleneckProducts, bottleneck_products
from lostjax.nn.kernels.attention import (
    ShardedAttention,
    cudnn_attention,
    splash_attention,
)
from lostjax.nn.kernels.sharded import ShardedProducts
from lostjax.optim import width_multipliers
from lostjax.errors import ConfigError
from lostjax.train.config.schema import ModelConfig
from lostjax.train.devices.mesh import BATCH_AXES, CUT_OUTPUTS, is_on_cpu
from lostjax.train.build.state import abstract_variables
from lostjax.train.config.widths import at_width
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
KERNELS: dict[str, BottleneckProducts] = {
    "mosaic_tpu": mosaic_tpu.mosaic_products,
    "mosaic_gpu": mosaic_gpu.mosaic_products,
}
FUSED: dict[str, Attend] = {"cudnn": cudnn_attention, "splash": splash_attention}
"""What XLA cannot cut over devices: `place_model` gives each its own."""


def build_linear(
    config: ModelConfig, *, product: BottleneckProducts = bottleneck_products
) -> layers.MakeLinear:
    """Choose the linear layer; call it with features, name, channel_groups, dtype."""
    start = nn.initializers.normal(0.02 * _narrowing(config) ** 0.5)
    kinds: dict[str, layers.MakeLinear] = {
        "dense": partial(layers.Dense, kernel_init=start),
        "low_rank": partial(
            layers.LowRank,
            rank=config.rank,
            product=product,
            factorize=FACTORS[config.factors],
            kernel_init=start,
        ),
        "cola": partial(
            layers.LowRank,
            rank=config.rank,
            product=product,
            activation=ACTIVATIONS[config.activation],
            factorize=layers.scaled_normal_factors,
        ),
        "sltrain": partial(layers.SLTrain, rank=config.rank, delta=config.delta),
        "lost": partial(
            layers.LowRankSparse,
            rank=config.rank,
            delta=config.delta,
            product=product,
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


def build_model(config: ModelConfig, *, vocab_size: int) -> layers.Transformer:
    """Build the model that a configuration describes, with XLA's products.

    Args:
      config: see `ModelConfig`; already checked.
      vocab_size: size of the vocabulary V.

    Returns:
      A Transformer module, without parameters; `place_model` puts it on a mesh.
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
    )


def place_model(
    model: layers.Transformer, *, config: ModelConfig, mesh: Mesh
) -> layers.Transformer:
    """Bind a model to a mesh: its residual stream, and the kernels it multiplies with.

    Args:
      model: as `build_model` made it of the same configuration.
      config: says which kernels, if any.
      mesh: where it runs.

    Returns:
      The same module, of the same parameters, that runs on the mesh only.
    """
    stream = NamedSharding(mesh, P(BATCH_AXES, None, None))

    def constrain(x_BTD: jax.Array) -> jax.Array:
        pinned: jax.Array = jax.lax.with_sharding_constraint(x_BTD, stream)
        return pinned

    linear = model.linear
    if config.product in KERNELS:
        place = partial(ShardedProducts, KERNELS[config.product], mesh, BATCH_AXES)
        linear = _ByCut(
            outputs=build_linear(config, product=place(outputs="tensor")),
            inputs=build_linear(config, product=place(inputs="tensor")),
        )
    attend = xla_attention(mesh)
    if config.attention in FUSED:
        attend = ShardedAttention(FUSED[config.attention], mesh, BATCH_AXES, "tensor")
    placed: layers.Transformer = model.clone(
        constrain=constrain, linear=linear, attend=attend
    )
    return placed


def xla_attention(mesh: Mesh) -> Attend:
    """Choose XLA's form of attention for the devices of a mesh."""
    return blocked_attention if is_on_cpu(mesh) else plain_attention


@dataclasses.dataclass(frozen=True)
class _ByCut:
    """Makes linear maps of two kinds: with outputs cut over a mesh, or with inputs."""

    outputs: layers.MakeLinear
    inputs: layers.MakeLinear

    def __call__(
        self,
        *,
        features: int,
        name: str | None = None,
        channel_groups: int = 1,
        dtype: DTypeLike | None = None,
    ) -> layers.Linear:
        make = self.outputs if name in CUT_OUTPUTS else self.inputs
        return make(
            features=features, name=name, channel_groups=channel_groups, dtype=dtype
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
