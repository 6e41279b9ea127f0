"""Products of narrow matrices by GPU kernels, with a fallback to XLA.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

`mosaic_products` replaces `bottleneck_products` and computes the same. On Hopper (H100,
H200), one kernel computes tiles of y from tiles of x, and act(x A) and x_I are never
written to HBM. [x A | x_I] is written only if there is a backward pass. It is labelled
"bottleneck", and "product" together with y, so that `save_bottlenecks`, `save_products`
and other policies find it. Backward, the same kernel computes dx from g, including the
part of the kept channels, and XLA computes the gradients of the weights (see
`lostjax.nn.kernels.gpu.backward`). The choice between kernel and XLA is made at compile
time, by the platform of the program and not by that of this process.

HBM bytes at two bytes per number over P rows, with K = R + C, each rounded up to 64,
and without weights:

    kernel, forward     2 P (M + N)                 + 2 P K before a backward pass
    XLA, one product    2 P (M + N + 4 R + 4 C)     intermediates, written and read
    kernel, backward    2 P (2 M + 2 N + 2 R + 3 K)

Disadvantages compared with XLA: each sibling reads x separately, and a policy that
recomputes y also recomputes x A, because one kernel computes both. Rank and kept
channels are each padded to a multiple of 64 (350m: 266 to 320), and every block of 128
or 64 rows reads all weights from L2. A number of inputs or outputs that 16 does not
divide (1b: 5461) is padded with zeros, usually by a copy. The kernel requires bfloat16
and at least 64 rows. By default it is used only if a model of its time on the device
predicts a gain (from about 8192 rows on: 60m to 350m on an H100, 60m and parts of 130m
on an H200; see `lostjax.nn.kernels.gpu.blocks`). Otherwise XLA computes the product and
the reason is logged. A program must run on one device or call this within
`jax.shard_map`, because XLA cannot partition a kernel.

XLA is the default because nothing was run on a GPU. The values were checked in the
interpreter on a CPU, NVIDIA's compiler accepts the kernels, and `benchmarks/kernels.py
--chip h100` reports what compilers can count.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.nn.kernels.gpu.backward import backward_product
from lostjax.nn.kernels.gpu.blocks import (
    BLOCK,
    Sizes,
    Tiles,
    choose_paying_tiles,
    choose_tiles,
    fill_up,
    round_up,
)
from lostjax.nn.kernels.gpu.forward import forward_product, kept_factors
from lostjax.nn.kernels.kernel_form import (
    Arrays,
    Choose,
    Gradients,
    Siblings,
    log_once,
    multiply,
)
from lostjax.typing import Activation, Array, Float

Cut = Callable[[Sizes], Tiles | None]
"""Function that chooses the tiles of one pass; None to use XLA instead."""

HOPPER = ("H100", "H200", "H800", "H20", "GH200")
"""Substrings of the names of devices that have the kernels' instructions."""


def on_gpu(kernel: Callable[..., Any], meaning: Callable[..., Any], *args: Any) -> Any:
    """Apply the kernel in programs for a GPU, and its reference in all others."""
    return jax.lax.platform_dependent(*args, cuda=kernel, default=meaning)


def mosaic_products(
    x_PM: Float[Array, "P M"],
    siblings: Sequence[BottleneckWeights],
    *,
    activation: Activation | None,
    channel_groups: int = 1,
    dtype: DTypeLike | None = None,
    cut: Cut | None = None,
    choose: Choose = on_gpu,
) -> tuple[jax.Array, ...]:
    """Multiply the same rows by sibling matrices, like `bottleneck_products`.

    Args:
        x_PM: rows (P, M).
        siblings: weights of the matrices; either all or none have kept channels.
        activation: activation between the factors, finite at 0; None for the identity.
        channel_groups: number of groups of inputs with equal numbers of kept channels;
            used only by the fallback to XLA.
        dtype: computation dtype; None promotes the dtypes of rows and weights.
        cut: function that chooses the tiles of a pass. None stands for
            `lostjax.nn.kernels.gpu.blocks.choose_paying_tiles` of the device, which
            returns no tiles if a model predicts no gain; `choose_tiles` of the same
            module returns tiles whenever they fit.
        choose: function that chooses between the kernel and its reference.

    Returns:
        One array (P, N_i) per sibling. If no kernel fits, XLA computes them, and the
        reason is logged once.
    """
    dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
    if cut is None:
        cut = partial(choose_paying_tiles, device_kind=_device().device_kind)
    passes = [_measure(x_PM, own) for own in siblings]
    if reason := _unfit(x_PM, dtype, passes, cut):
        log_once(f"low-rank product uses XLA, not the GPU kernel: {reason}")
        return bottleneck_products(
            x_PM,
            siblings,
            activation=activation,
            channel_groups=channel_groups,
            dtype=dtype,
        )
    n_rows, n_inputs = x_PM.shape
    # Padding once for all siblings: every array needs whole tiles and swizzles.
    rows_PM = _pad(x_PM.astype(dtype), round_up(n_rows, 8), fill_up(n_inputs))
    plans = [_Plan(activation, choose, cut(up), cut(back)) for up, back in passes]
    products = [
        multiply(plan, rows_PM, (_fill_up(weights.astype(dtype)),))[0]
        for plan, weights in zip(plans, siblings, strict=True)
    ]
    # Cut off the padded rows and columns.
    return tuple(
        y_PN[:n_rows, : weights.b_RN.shape[1]]
        for y_PN, weights in zip(products, siblings, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A `KernelForm` for one matrix."""

    activation: Activation | None
    choose: Choose
    forward_tiles: Tiles | None
    backward_tiles: Tiles | None
    has_backward: bool = True
    """Always true: without backward tiles XLA computes both passes."""

    def forward(
        self, x_PM: jax.Array, siblings: Siblings, *, keep_hidden: bool
    ) -> tuple[Arrays, Arrays]:
        assert self.forward_tiles is not None
        (weights,) = siblings
        y_PN, *hidden = forward_product(
            x_PM,
            weights,
            activation=self.activation,
            tiles=self.forward_tiles,
            keep_hidden=keep_hidden,
        )
        return (y_PN,), tuple(hidden)

    def hidden(self, x_PM: jax.Array, siblings: Siblings) -> Arrays:
        (weights,) = siblings
        one_hot_MC, _ = kept_factors(weights)
        down = [weights.a_MR] if one_hot_MC is None else [weights.a_MR, one_hot_MC]
        # The one-hot product computes x_I in the layout that the kernel writes.
        return (x_PM @ jnp.concatenate(down, axis=1),)

    def backward(
        self, x_PM: jax.Array, hidden: Arrays, gs: Arrays, siblings: Siblings
    ) -> Gradients:
        assert self.backward_tiles is not None
        (weights,), (hidden_PK,), (g_PN,) = siblings, hidden, gs
        dx_PM, gradients = backward_product(
            x_PM,
            hidden_PK,
            g_PN,
            weights,
            activation=self.activation,
            tiles=self.backward_tiles,
        )
        return dx_PM, (gradients,)


def _measure(x_PM: jax.Array, weights: BottleneckWeights) -> tuple[Sizes, Sizes]:
    # Sizes of the forward pass, and of the backward pass, which swaps M and N.
    (n_rows, n_inputs), (rank, n_outputs) = x_PM.shape, weights.b_RN.shape
    n_kept = 0 if weights.values_CN is None else weights.values_CN.shape[0]
    sizes = Sizes(
        rows=round_up(n_rows, 8),
        inputs=n_inputs,
        outputs=n_outputs,
        rank=round_up(rank, BLOCK),
        kept=round_up(n_kept, BLOCK),
    )
    return sizes, dataclasses.replace(sizes, inputs=n_outputs, outputs=n_inputs)


def _unfit(
    x_PM: jax.Array,
    dtype: DTypeLike,
    passes: Sequence[tuple[Sizes, Sizes]],
    cut: Cut,
) -> str | None:
    n_rows, n_inputs = x_PM.shape
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"it supports bfloat16, not {jnp.dtype(dtype).name}"
    # Rows are padded to a multiple of 8, so that 57 rows fill a tile of 64.
    if n_rows <= BLOCK - 8:
        return f"{n_rows} rows are fewer than a tile of {BLOCK}"
    device = _device()
    if device.platform == "gpu" and not any(h in device.device_kind for h in HOPPER):
        return f"it needs a Hopper GPU, not {device.device_kind}"
    sizes = list(itertools.chain.from_iterable(passes))
    if None in map(choose_tiles, sizes):
        return f"{n_rows} rows of {n_inputs} inputs do not fit in shared memory"
    if None in map(cut, sizes):
        return f"XLA is estimated to be as fast for {n_rows} rows of {n_inputs} inputs"
    return None


def _device() -> Any:
    # Ahead-of-time compilation sets an abstract device, which is not in this process.
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def _fill_up(weights: BottleneckWeights) -> BottleneckWeights:
    # Zeros change no product, and no kept channel is among the padded inputs.
    (n_inputs, rank), n_outputs = weights.a_MR.shape, fill_up(weights.b_RN.shape[1])
    values_CN = weights.values_CN
    if values_CN is not None:
        values_CN = _pad(values_CN, values_CN.shape[0], n_outputs)
    return weights._replace(
        a_MR=_pad(weights.a_MR, fill_up(n_inputs), round_up(rank, BLOCK)),
        b_RN=_pad(weights.b_RN, round_up(rank, BLOCK), n_outputs),
        values_CN=values_CN,
        gamma=jnp.asarray(weights.gamma, jnp.float32),
    )


def _pad(array: jax.Array, rows: int, columns: int) -> jax.Array:
    missing = (rows - array.shape[0], columns - array.shape[1])
    return jnp.pad(array, [(0, n) for n in missing]) if any(missing) else array
