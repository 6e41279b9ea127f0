"""Products of narrow matrices by GPU kernels, with XLA's form wherever they do not fit.

    y = [gamma act(x A), (1 - gamma) x_I] [B; W]

`mosaic_products` stands where `bottleneck_products` does and means the same. On Hopper
(H100, H200) one kernel takes tiles of x to tiles of y: act(x A) and x_I never reach
HBM. [x A | x_I] is written only if there will be a backward pass; it has the name
"bottleneck", and "product" with y, so that `save_bottlenecks`, `save_products` and
other policies see them. Backward the same kernel takes g to dx, kept channels' part
included, and XLA makes the weights' gradients (`gpu_backward` says why). Which form a
program takes is settled when it is compiled: by platform, not by what this process runs
on.

HBM bytes, two a number, over P rows, K = R + C rounded up to 64 each, weights left out:

    kernel, forward     2 P (M + N)                 + 2 P K before a backward pass
    XLA, one product    2 P (M + N + 4 R + 4 C)     what lies between, there and back
    kernel, backward    2 P (2 M + 2 N + 2 R + 3 K)

What it costs against XLA's form: each sibling reads x for itself, and a policy that
computes y again computes x A again, for one kernel does both. Between the products
widths are rounded up to 64, kept channels for themselves (350m: 266 to 320), and every
block of 128 or 64 rows reads all weights from L2. A number of inputs or outputs that 16
does not divide (1b: 5461) is filled up with zeros, mostly a copy. It computes in
bfloat16 alone, from 64 rows on, and by default where a model of its time says that it
pays (60m to 350m, from some 8192 rows on; see `gpu_blocks`): anything else is XLA's,
and the log says so. A program must run on one device, or call this within
`jax.shard_map`: XLA cannot cut a kernel up.

XLA's form is the default, for nothing here was run on a GPU: its interpreter on a CPU
says that values are right, NVIDIA's compiler takes the kernels, and
`benchmarks/kernels.py --chip h100` counts what compilers can tell.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
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
"""Says how one pass is cut; None for not at all."""

HOPPER = ("H100", "H200", "H800", "H20", "GH200")
"""What names of devices with the kernels' instructions have in them."""


def on_gpu(kernel: Callable[..., Any], meaning: Callable[..., Any], *args: Any) -> Any:
    """Apply the kernel in programs for a GPU, and what it means in all others."""
    return jax.lax.platform_dependent(*args, cuda=kernel, default=meaning)


def mosaic_products(
    x_PM: Float[Array, "P M"],
    siblings: Sequence[BottleneckWeights],
    *,
    activation: Activation | None,
    channel_groups: int = 1,
    dtype: DTypeLike | None = None,
    cut: Cut = choose_paying_tiles,
    choose: Choose = on_gpu,
) -> tuple[jax.Array, ...]:
    """Apply sibling matrices to the same rows, as `bottleneck_products` does.

    Args:
        x_PM: the rows.
        siblings: their weights; all keep channels, or none does.
        activation: what stands between the factors, finite at 0; None for nothing.
        channel_groups: groups of inputs that hold equal numbers of kept channels; of
            consequence to XLA's form only.
        dtype: type to compute in; None takes the wider of rows and weights.
        cut: says how the passes are cut into tiles; `gpu_blocks.choose_tiles` does it
            wherever they fit, the default only where a model says that it pays.
        choose: decides between the kernel and its meaning.

    Returns:
        One array (P, N_i) per sibling. Where no kernel fits they are XLA's, and the
        log says why, once.
    """
    dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
    passes = [_measure(x_PM, own) for own in siblings]
    if reason := _unfit(x_PM, dtype, passes, cut):
        log_once(f"XLA's form of a narrow product, no GPU kernel: {reason}")
        return bottleneck_products(
            x_PM,
            siblings,
            activation=activation,
            channel_groups=channel_groups,
            dtype=dtype,
        )
    n_rows, n_inputs = x_PM.shape
    rows_PM = _pad(x_PM.astype(dtype), round_up(n_rows, 8), fill_up(n_inputs))
    plans = [_Plan(activation, choose, cut(up), cut(back)) for up, back in passes]
    products = [
        multiply(plan, rows_PM, (_fill_up(weights.astype(dtype)),))[0]
        for plan, weights in zip(plans, siblings, strict=True)
    ]
    return tuple(
        y_PN[:n_rows, : weights.b_RN.shape[1]]
        for y_PN, weights in zip(products, siblings, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A `KernelForm`."""

    activation: Activation | None
    choose: Choose
    forward_tiles: Tiles | None
    backward_tiles: Tiles | None
    has_backward: bool = True
    """What has none is XLA's as a whole."""

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
    # Of the forward pass and of the backward pass.
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
        return f"it computes in bfloat16, not in {jnp.dtype(dtype).name}"
    if n_rows <= BLOCK - 8:
        return f"{n_rows} rows do not fill a tile of {BLOCK}"
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    if device.platform == "gpu" and not any(h in device.device_kind for h in HOPPER):
        return f"its instructions are Hopper's, not those of {device.device_kind}"
    sizes = list(itertools.chain.from_iterable(passes))
    if None in map(choose_tiles, sizes):
        return f"{n_rows} rows of {n_inputs} inputs do not fit its shared memory"
    if None in map(cut, sizes):
        return f"by a model of its time {n_rows} rows of {n_inputs} inputs do not pay"
    return None


def _fill_up(weights: BottleneckWeights) -> BottleneckWeights:
    # Zeros add nothing to any product; no channel that is kept is among them.
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
