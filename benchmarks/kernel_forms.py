"""Matrices of the papers' sizes, and the forms of their products that are compared."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.tpu import blocks as tpu_blocks
from lostjax.train.config.presets import get_preset

SIZES = {
    size: get_preset(f"lost_{size}").model
    for size in ("60m", "130m", "350m", "1b", "7b")
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """Matrices of one size: rows P, inputs M, outputs N, rank R, kept channels C."""

    name: str
    rows: int
    inputs: int
    outputs: int
    rank: int
    kept: int
    siblings: int = 1

    @property
    def weights(self) -> int:
        """Count the learnt numbers, of all siblings."""
        each = self.rank * (self.inputs + self.outputs) + self.kept * self.outputs
        return self.siblings * each

    def sizes(self, *, siblings: int) -> tpu_blocks.Sizes:
        """Give the sizes as the kernels' cutting wants them, in bfloat16."""
        return tpu_blocks.Sizes(
            self.rows, self.inputs, self.outputs, self.rank, self.kept, 2, siblings
        )


def list_layers(size: str, *, rows: int) -> list[Layer]:
    """List the matrices of a size, and its siblings."""
    model = SIZES[size]
    width, hidden, rank = model.d_model, model.d_hidden, model.rank
    matrices = {
        "up": (width, hidden, 1),
        "down": (hidden, width, 1),
        "square": (width, width, 1),
        "gate, up": (width, hidden, 2),
        "q, k, v": (width, width, 3),
    }
    return [
        Layer(f"{size} {name}", rows, n_in, n_out, rank, max(1, n_in // 100), siblings)
        for name, (n_in, n_out, siblings) in matrices.items()
    ]


def unfused_products(
    x_PM: jax.Array, siblings: list[BottleneckWeights], *, activation: Any
) -> tuple[jax.Array, ...]:
    """LOST as its equation reads."""

    def multiply(w: BottleneckWeights) -> jax.Array:
        low_rank_PN = activation(x_PM @ w.a_MR) @ w.b_RN
        sparse_PN = x_PM[:, w.kept_C] @ w.values_CN
        return w.gamma * low_rank_PN + (1 - w.gamma) * sparse_PN

    return tuple(map(multiply, siblings))


def dense_products(
    x_PM: jax.Array, siblings: list[jax.Array], *, activation: Any
) -> tuple[jax.Array, ...]:
    """Full matrices, without an activation."""
    del activation
    return tuple(x_PM @ w_MN for w_MN in siblings)


def arguments(layer: Layer, form: str, which: str) -> tuple[Any, ...]:
    """Give what a form multiplies: rows, outputs' gradients, weights, and indices."""
    number = jnp.bfloat16
    x_PM = jax.ShapeDtypeStruct((layer.rows, layer.inputs), number)
    g_PN = jax.ShapeDtypeStruct((layer.rows, layer.outputs), number)
    gs = [g_PN] * layer.siblings if which == "training" else []
    if form == "dense":
        w_MN = jax.ShapeDtypeStruct((layer.inputs, layer.outputs), number)
        return x_PM, gs, [w_MN] * layer.siblings, []
    weights = [
        jax.ShapeDtypeStruct(shape, number)
        for shape in (
            (layer.inputs, layer.rank),
            (layer.rank, layer.outputs),
            (layer.kept, layer.outputs),
        )
    ]
    kept_C = jax.ShapeDtypeStruct((layer.kept,), jnp.int32)
    return x_PM, gs, [weights] * layer.siblings, [kept_C] * layer.siblings


def run(
    product: Callable[..., Any],
    which: str,
    x_PM: jax.Array,
    gs: list[jax.Array],
    weights: list[Any],
    kept: list[jax.Array],
) -> Any:
    """Apply products, and in training bring gradients back."""

    def apply(x_PM: jax.Array, weights: list[Any]) -> tuple[jax.Array, ...]:
        if not kept:
            return tuple(product(x_PM, weights, activation=None))
        siblings = [
            BottleneckWeights(*own, kept_C, gamma=0.7)
            for own, kept_C in zip(weights, kept, strict=True)
        ]
        return tuple(product(x_PM, siblings, activation=nn.silu))

    if which == "forward":
        return apply(x_PM, weights)
    products, pull = jax.vjp(apply, x_PM, weights)
    return products, pull(tuple(gs))
