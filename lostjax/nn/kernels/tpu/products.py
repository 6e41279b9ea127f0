"""Products of narrow matrices by TPU kernels, with a fallback to XLA.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

`mosaic_products` replaces `bottleneck_products` and computes the same. On a TPU, one
kernel computes tiles of y from tiles of x, and one kernel computes the gradients.
act(x A) and x_I are never written to HBM, kept channels are read from the tile of x in
VMEM, and dx needs no scatter. x A is written only if there is a backward pass. It is
labelled "bottleneck", and "product" together with y, so that `save_bottlenecks`,
`save_products` and other policies find it. The choice between kernel and XLA is made at
compile time, by the platform of the program and not by that of this process.

Siblings of equal sizes share a kernel if all of them fit in VMEM without a reduction of
the rows per step: x is then read once, and dx is summed and written once. Disadvantages
compared with XLA: a policy that recomputes y also recomputes x A, because one kernel
computes both, and XLA cannot partition a kernel; on several devices,
`lostjax.nn.kernels.sharded` runs one per device.

XLA is the default because nothing was measured on a TPU; `benchmarks/kernels.py`
reports what compilers can count.
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
    """Apply the kernel in programs for a TPU, and its reference in all others."""
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
    """Multiply the same rows by sibling matrices, like `bottleneck_products`.

    Args:
        x_PM: rows (P, M).
        siblings: weights of the matrices; either all or none have kept channels.
        activation: activation between the factors; None for the identity.
        channel_groups: number of groups of inputs with equal numbers of kept channels;
            used only by the fallback to XLA.
        dtype: computation dtype; None promotes the dtypes of rows and weights.
        chip: the TPU to compile for; None detects it from the current mesh or process.
        choose: function that chooses between the kernel and its reference.

    Returns:
        One array (P, N_i) per sibling. If no kernel fits, XLA computes them, and the
        reason is logged once.
    """
    dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
    if chip is None and not (kind := kind_here()).startswith("TPU"):
        log_once(
            f"low-rank product uses XLA, not the TPU kernel: the device is a {kind}"
        )
    chip = chip_here() if chip is None else chip
    # Decide for the target chip, not for this process: programs can be compiled ahead.
    families = _split(siblings, _sizes(x_PM, siblings[0], dtype), chip)
    plans = [
        _make_plan(
            _sizes(x_PM, family[0], dtype, len(family)), activation, chip, choose
        )
        for family in families
    ]
    if reason := _unfit(x_PM, dtype, plans):
        log_once(f"low-rank product uses XLA, not the TPU kernel: {reason}")
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
    """A `KernelForm` for siblings that share a kernel."""

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
    """Assign siblings to one kernel if it needs no smaller steps than one sibling does.

    Both passes must fit: the saving is mostly in the backward pass, and a joint forward
    kernel alone would request VMEM that XLA can use better.
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
    # The kernels read gamma as a float32 array, and return its gradient.
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
        return f"it supports bfloat16 and float32, not {jnp.dtype(dtype).name}"
    if not x_PM.shape[0]:
        return "the input has no rows"
    if any(plan.cut_forward is None for plan in plans):
        return f"weights with {x_PM.shape[1]} inputs do not fit in VMEM"
    if any(plan.cut_backward is None for plan in plans):
        log_once(
            f"the backward pass of a low-rank product uses XLA, not the TPU kernel: "
            f"gradients of weights with {x_PM.shape[1]} inputs do not fit in VMEM"
        )
    return None
