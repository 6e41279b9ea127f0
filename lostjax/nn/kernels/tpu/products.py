"""Products of narrow matrices by TPU kernels, with XLA's form wherever they do not fit.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

`mosaic_products` stands where `bottleneck_products` does and means the same. On a TPU
one kernel takes tiles of x to tiles of y and one brings gradients back: act(x A) and
x_I never reach HBM, kept channels are read from the tile of x that VMEM holds, and
there is no scatter over dx. x A is written only if there will be a backward pass; it
has the name "bottleneck", and "product" with y, so that `save_bottlenecks`,
`save_products` and other policies see them. Which form a program takes is settled when
it is compiled: by platform, not by what this process runs on.

Siblings of the same sizes share a kernel where VMEM has room for all, in steps of as
many rows as for one: x is read once, and dx is summed and written once. What it costs
against XLA's form: a policy that computes y again computes x A again, for one kernel
does both. XLA cannot cut a kernel up: on several devices, `lostjax.nn.kernels.sharded`
gives each its own.

XLA's form is the default, for no figure here was measured on a TPU:
`benchmarks/kernels.py` counts what compilers can tell.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.nn.kernels.kernel_form import (
    Arrays,
    Choose,
    Gradients,
    Siblings,
    log_once,
    multiply,
)
from lostjax.nn.kernels.tpu.backward import backward_products
from lostjax.nn.kernels.tpu.blocks import (
    Chip,
    Cut,
    Sizes,
    chip_here,
    cut_backward,
    cut_forward,
    kind_here,
)
from lostjax.nn.kernels.tpu.forward import forward_products
from lostjax.typing import Activation, Array, Float


def on_tpu(kernel: Callable[..., Any], meaning: Callable[..., Any], *args: Any) -> Any:
    """Apply the kernel in programs for a TPU, and what it means in all others."""
    return jax.lax.platform_dependent(*args, tpu=kernel, default=meaning)


def mosaic_products(
    x_PM: Float[Array, "P M"],
    siblings: Sequence[BottleneckWeights],
    *,
    activation: Activation | None,
    channel_groups: int = 1,
    dtype: DTypeLike | None = None,
    chip: Chip | None = None,
    choose: Choose = on_tpu,
) -> tuple[jax.Array, ...]:
    """Apply sibling matrices to the same rows, as `bottleneck_products` does.

    Args:
        x_PM: the rows.
        siblings: their weights; all keep channels, or none does.
        activation: what stands between the factors; None for nothing.
        channel_groups: groups of inputs that hold equal numbers of kept channels; of
            consequence to XLA's form only.
        dtype: type to compute in; None takes the wider of rows and weights.
        chip: the TPU to cut for; None looks at the mesh in use and at this process.
        choose: decides between the kernel and its meaning.

    Returns:
        One array (P, N_i) per sibling. Where no kernel fits they are XLA's, and the
        log says why, once.
    """
    dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
    if chip is None and not (kind := kind_here()).startswith("TPU"):
        log_once(f"XLA's form of a narrow product, no TPU kernel, for a {kind}")
    chip = chip_here() if chip is None else chip
    families = _split(siblings, _sizes(x_PM, siblings[0], dtype), chip)
    plans = [
        _make_plan(
            _sizes(x_PM, family[0], dtype, len(family)), activation, chip, choose
        )
        for family in families
    ]
    if reason := _unfit(x_PM, dtype, plans):
        log_once(f"XLA's form of a narrow product, no TPU kernel: {reason}")
        return bottleneck_products(
            x_PM,
            siblings,
            activation=activation,
            channel_groups=channel_groups,
            dtype=dtype,
        )
    x_PM = x_PM.astype(dtype)
    products: list[jax.Array] = []
    for plan, family in zip(plans, families, strict=True):
        given = tuple(_with_gamma(weights.astype(dtype)) for weights in family)
        products += multiply(plan, x_PM, given)
    return tuple(products)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A `KernelForm`."""

    activation: Activation | None
    chip: Chip
    choose: Choose
    cut_forward: Cut | None
    cut_backward: Cut | None

    @property
    def has_backward(self) -> bool:
        return self.cut_backward is not None

    def forward(
        self, x_PM: jax.Array, siblings: Siblings, *, keep_hidden: bool
    ) -> tuple[Arrays, Arrays]:
        assert self.cut_forward is not None
        return forward_products(
            x_PM,
            siblings,
            activation=self.activation,
            cut=self.cut_forward,
            keep_hidden=keep_hidden,
        )

    def hidden(self, x_PM: jax.Array, siblings: Siblings) -> Arrays:
        return tuple(x_PM @ weights.a_MR for weights in siblings)

    def backward(
        self, x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        assert self.cut_backward is not None
        return backward_products(
            x_PM,
            hidden,
            gs,
            siblings,
            activation=self.activation,
            cut=self.cut_backward,
            chip=self.chip,
        )


def _split(
    siblings: Sequence[BottleneckWeights], sizes: Sizes, chip: Chip
) -> list[Siblings]:
    """Put all into one kernel where they are alike and its steps stay as long.

    Both passes or none: what is saved is mostly the backward's, and a forward kernel of
    all would ask for VMEM that XLA has a use for.
    """
    shapes = [jax.tree.map(jnp.shape, weights) for weights in siblings]
    together = sizes._replace(siblings=len(siblings))
    if all(shape == shapes[0] for shape in shapes):
        cuts = cut_forward(together, chip), cut_backward(together, chip)
        alone = cut_forward(sizes, chip), cut_backward(sizes, chip)
        if all(
            one is not None and other is not None and one.rows == other.rows
            for one, other in zip(cuts, alone, strict=True)
        ):
            return [tuple(siblings)]
    return [(weights,) for weights in siblings]


def _with_gamma(weights: BottleneckWeights) -> BottleneckWeights:
    return weights._replace(gamma=jnp.asarray(weights.gamma, jnp.float32))


def _sizes(
    x_PM: jax.Array,
    weights: BottleneckWeights,
    dtype: DTypeLike,
    n_siblings: int = 1,
) -> Sizes:
    values_CN = weights.values_CN
    return Sizes(
        rows=x_PM.shape[0],
        inputs=x_PM.shape[1],
        outputs=weights.b_RN.shape[1],
        rank=weights.b_RN.shape[0],
        kept=0 if values_CN is None else values_CN.shape[0],
        itemsize=jnp.dtype(dtype).itemsize,
        siblings=n_siblings,
    )


def _make_plan(
    sizes: Sizes, activation: Activation | None, chip: Chip, choose: Choose
) -> _Plan:
    return _Plan(
        activation=activation,
        chip=chip,
        choose=choose,
        cut_forward=cut_forward(sizes, chip),
        cut_backward=cut_backward(sizes, chip),
    )


def _unfit(x_PM: jax.Array, dtype: DTypeLike, plans: Sequence[_Plan]) -> str | None:
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        return f"it computes in bfloat16 and float32, not in {jnp.dtype(dtype).name}"
    if not x_PM.shape[0]:
        return "there are no rows"
    if any(plan.cut_forward is None for plan in plans):
        return f"weights of {x_PM.shape[1]} inputs do not fit its VMEM"
    if any(plan.cut_backward is None for plan in plans):
        log_once(
            f"XLA's form of a narrow product's backward pass, no TPU kernel: gradients "
            f"of weights of {x_PM.shape[1]} inputs do not fit its VMEM"
        )
    return None
