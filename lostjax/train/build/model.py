"""Build the model that a configuration describes.

The library takes functions as arguments. Their names (`residual`, `svd`, `bottleneck`)
are looked up in this module only, so that a command line can choose between them.
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
from lostjax.errors import ConfigError
from lostjax.nn.attention.blocked import blocked_attention
from lostjax.nn.attention.plain import Attend, plain_attention
from lostjax.nn.kernels.attention import BLOCKS as SPLASH_BLOCKS
from lostjax.nn.kernels.attention import (
    ShardedAttention,
    cudnn_attention,
    splash_attention,
)
from lostjax.nn.kernels.bottleneck import BottleneckProducts, bottleneck_products
from lostjax.nn.kernels.gpu import products as mosaic_gpu
from lostjax.nn.kernels.sharded import ShardedProducts
from lostjax.nn.kernels.tpu import products as mosaic_tpu
from lostjax.optim import width_multipliers
from lostjax.train.build.state import abstract_variables
from lostjax.train.config.schema import AttentionName, ModelConfig
from lostjax.train.config.widths import at_width
from lostjax.train.devices.mesh import BATCH_AXES, is_on_cpu
from lostjax.train.devices.sharding import CUT_OUTPUTS, EMBEDDING, spec_for
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
"""Fused attention by name. XLA cannot partition it, so each device runs its own."""


def build_linear(
    config: ModelConfig, *, product: BottleneckProducts = bottleneck_products
) -> layers.MakeLinear:
    """Return the constructor of a configuration's linear maps.

    Args:
      config: see `ModelConfig`; already checked.
      product: the narrow products of `lost`, `cola` and `low_rank`.

    Returns:
      A function of features, name, channel_groups and dtype that makes a layer.
    """
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
      A Transformer module without parameters; `place_model` binds it to a mesh.
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
    model: layers.Transformer,
    *,
    config: ModelConfig,
    mesh: Mesh,
    length: int | None = None,
) -> layers.Transformer:
    """Bind a model to a mesh: shard its residual stream and choose its kernels.

    Args:
      model: the result of `build_model` for the same configuration.
      config: names the kernels, if any.
      mesh: the devices that the model runs on.
      length: tokens in a row, from which `auto` chooses attention; None: XLA's.

    Returns:
      The same module with the same parameters, which runs on this mesh only.
    """
    stream = NamedSharding(mesh, P(BATCH_AXES, None, None))

    def constrain(x_BTD: jax.Array) -> jax.Array:
        # Pinned, so that XLA does not shard the stream along T or D between layers.
        pinned: jax.Array = jax.lax.with_sharding_constraint(x_BTD, stream)
        return pinned

    table = spec_for(EMBEDDING, (model.vocab_size, model.d_model), mesh.shape)
    features = table[1] if len(table) > 1 else None
    embedded = NamedSharding(mesh, P("data", None, features))

    def constrain_embedded(x_BTD: jax.Array) -> jax.Array:
        # From the table's features to the stream's rows is one exchange among the
        # devices that share rows. Left to itself, XLA may gather the whole stream.
        pinned: jax.Array = jax.lax.with_sharding_constraint(x_BTD, embedded)
        return pinned

    linear = model.linear
    if config.product in KERNELS:
        place = partial(ShardedProducts, KERNELS[config.product], mesh, BATCH_AXES)
        linear = _ByCut(
            outputs=build_linear(config, product=place(outputs="tensor")),
            inputs=build_linear(config, product=place(inputs="tensor")),
        )
    attend = xla_attention(mesh)
    attention = choose_attention(config, mesh=mesh, length=length)
    if attention in FUSED:
        attend = ShardedAttention(FUSED[attention], mesh, BATCH_AXES, "tensor")
    placed: layers.Transformer = model.clone(
        constrain=constrain,
        constrain_embedded=constrain_embedded,
        linear=linear,
        attend=attend,
    )
    return placed


def choose_attention(
    config: ModelConfig, *, mesh: Mesh, length: int | None
) -> AttentionName:
    """Choose the attention of a model whose configuration leaves it open.

    Args:
      config: the model; anything but `auto` is what it names.
      mesh: the devices.
      length: tokens in a row; None if they are not known.

    Returns:
      cudnn on NVIDIA GPUs of the Ampere generation or newer, for shapes that it takes
      in bfloat16; splash on TPUs, for rows that it takes; else xla.
    """
    if config.attention != "auto":
        return config.attention
    if length is None:
        return "xla"
    device = mesh.devices.flat[0]
    if device.platform == "tpu" and length % min(SPLASH_BLOCKS) == 0:
        return "splash"
    head = config.d_model // config.n_heads
    fits = length % 2 == 0 and head % 8 == 0 and head <= 128
    if _is_ampere(device) and fits and config.dtype == "bfloat16":
        return "cudnn"
    return "xla"


def _is_ampere(device: Any) -> bool:
    """Return whether a device is an NVIDIA GPU on which cuDNN's attention runs."""
    # Older ones would end the run with an error that is not about cuDNN. AMD's GPUs
    # have the platform gpu too, and a capability that is no number.
    capability = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return (
        device.platform in ("gpu", "cuda")
        and capability.isdecimal()
        and (int(capability) >= 8 and device.device_kind.startswith("NVIDIA"))
    )


def xla_attention(mesh: Mesh) -> Attend:
    """Return the form of XLA's attention that suits the devices of a mesh."""
    return blocked_attention if is_on_cpu(mesh) else plain_attention


@dataclasses.dataclass(frozen=True)
class _ByCut:
    """Makes linear maps whose outputs or whose inputs are sharded, by their names."""

    outputs: layers.MakeLinear
    """Makes the maps named in `CUT_OUTPUTS`."""
    inputs: layers.MakeLinear
    """Makes all others."""

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
    """Compute every tensor's learning-rate multiplier; see `optim.width_scaling`.

    Args:
      config: see `ModelConfig`; already checked.
      vocab_size: size of the vocabulary V.

    Returns:
      A tree of floats with the structure of the parameters; None without muP.

    Raises:
      ConfigError: if this model or the one at the base width cannot be built.
    """
    if not config.base_width:
        return None
    try:
        wide, base = (
            abstract_variables(build_model(sizes, vocab_size=vocab_size))["params"]
            for sizes in (config, at_width(config, config.base_width))
        )
    except ValueError as error:  # raised by a layer whose sizes do not fit together
        raise ConfigError(f"--model.base-width={config.base_width}: {error}") from None
    return width_multipliers(wide, base)


def _narrowing(config: ModelConfig) -> float:
    """Compute base width / width; 1 without muP."""
    return config.base_width / config.d_model if config.base_width else 1.0
