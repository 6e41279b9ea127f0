"""Section 1: values and gradients of fused attention and of this library's products.

Each kernel is compared with XLA's program of the same products, both in bfloat16, by
their errors against XLA's in float32 at its highest precision:

    error of an array    |a - a32| / |a32|, of the whole and of its worst row
    ratio                kernel's error / XLA's, the largest over arrays and both errors

XLA's own rounding is the measure: a kernel with a ratio of 1 is as exact as XLA, and
one with a ratio up to `ALIKE` rounds in other places. More is a mistake.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from kernel_forms import Layer, list_layers, run
from kernel_forms import arguments as layer_arguments

from device.forms import FUSED, shrink
from device.programs import DOCUMENTS, count_kernels, one_device
from device.workers import Event, first_line
from lostjax.nn.attention.mask import Seen, causal_bias
from lostjax.nn.attention.plain import plain_attention
from lostjax.nn.kernels.attention import (
    ShardedAttention,
    cudnn_attention,
    splash_attention,
)
from lostjax.nn.kernels.bottleneck import bottleneck_products
from lostjax.nn.kernels.gpu.blocks import choose_tiles
from lostjax.nn.kernels.gpu.products import mosaic_products as gpu_products
from lostjax.nn.kernels.tpu.products import mosaic_products as tpu_products
from lostjax.train.config.presets import get_preset
from lostjax.train.devices.mesh import BATCH_AXES

SIZES = ("350m", "60m", "1b", "130m", "7b")
ALIKE = 2.0
"""Ratio up to which a kernel counts as exact as XLA."""
ROWS, BATCH, LENGTH = 8192, 16, 256
"""Rows of a product; rows of tokens and their length in attention."""
PATIENCE = 60
"""Seconds for one case, its compilation included."""

ATTENTION = {"gpu": cudnn_attention, "tpu": splash_attention}
PRODUCTS = {
    "gpu": partial(gpu_products, cut=choose_tiles),
    "tpu": tpu_products,
}


class Case(NamedTuple):
    """One shape: its arguments, and three programs of them."""

    shapes: Any
    xla: Callable[..., Any]
    kernel: Callable[..., Any]
    names: tuple[str, ...]
    """Of the results."""


def list_cases(kind: str) -> list[str]:
    """List the cases, those of the most telling size first."""
    parts = (f"{FUSED[kind]} attention", "up", "down", "square")
    return [f"{size} {part}" for size in SIZES for part in parts]


def compare(names: list[str], *, kind: str, toy: bool = False) -> Iterator[Event]:
    """Compare cases one after the other; all are compiled in threads beforehand."""
    mesh = one_device(jax.devices()[0])
    on_device = jax.devices()[0].platform == kind
    with ThreadPoolExecutor() as pool:
        jobs = {
            name: pool.submit(
                compile_case,
                find_case(name, mesh, kind=kind, toy=toy),
                mesh,
                kernel=on_device,
            )
            for name in names
        }
        for name in names:
            yield Event(begin=name, limit=PATIENCE)
            try:
                yield Event(row=name, **_compare(jobs[name].result(), on_device))
            except Exception as error:
                yield Event(row=name, status="error", note=first_line(error))


def find_case(name: str, mesh: Mesh, *, kind: str, toy: bool = False) -> Case:
    """Build the case of a name, for the one device of a mesh."""
    size, _, part = name.partition(" ")
    model = get_preset(f"lost_{size}").model
    model = shrink(model) if toy else model
    if part.endswith("attention"):
        head = (model.n_heads, model.d_model // model.n_heads)
        batch = (2, 32) if toy else (BATCH, LENGTH)
        # As the trainer does: a kernel asks the mesh which device it is for.
        attend = ShardedAttention(ATTENTION[kind], mesh, BATCH_AXES, "tensor")
        return _attention(batch + head, attend)
    (layer,) = (each for each in list_layers(size, rows=ROWS) if each.name == name)
    if toy:
        layer = Layer(name, 64, model.d_model, model.d_hidden, model.rank, 3)
    return Case(
        layer_arguments(layer, "kernel", "training"),
        partial(run, bottleneck_products, "training"),
        partial(run, PRODUCTS[kind], "training"),
        ("y", "dx", "da", "db", "dvalues"),
    )


def _attention(shape: tuple[int, ...], kernel: Callable[..., Any]) -> Case:
    """Build attention over rows of several documents."""

    def training(attend: Any, q: Any, k: Any, v: Any, g: Any, segments: Any) -> Any:
        bias = causal_bias(segments.shape[1], segments_BT=segments)
        seen = Seen(bias, segments)
        y, pull = jax.vjp(lambda q, k, v: attend(q, k, v, seen), q, k, v)
        return y, *pull(g)

    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 4
    return Case(
        (*arrays, jax.ShapeDtypeStruct(shape[:2], jnp.int32)),
        partial(training, plain_attention),
        partial(training, kernel),
        ("y", "dq", "dk", "dv"),
    )


def compile_case(case: Case, mesh: Any, *, kernel: bool) -> tuple[Case, list[Any]]:
    """Compile the errors of XLA's results and, where it can run, of the kernel's.

    Args:
        case: the case.
        mesh: its one device, which may be abstract.
        kernel: whether the device has the kernel.

    Returns:
        The case and its programs.
    """
    whole = NamedSharding(mesh, P())
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        case.shapes,
    )

    def errors(product: Any, arguments: Any) -> Any:
        wide = jax.tree.map(_widen, arguments)
        with jax.default_matmul_precision("highest"):  # or a GPU rounds to TF32
            exact = jax.tree.leaves(case.xla(*wide))
        found = jax.tree.leaves(product(*arguments))
        return [_errors(*pair) for pair in zip(found, exact, strict=True)]

    products = [case.xla, case.kernel] if kernel else [case.xla]
    return case, [
        jax.jit(partial(errors, product)).lower(shapes).compile()
        for product in products
    ]


def _widen(leaf: Any) -> Any:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf


def _errors(found: Any, exact: Any) -> tuple[Any, Any]:
    """Return the relative error of the whole array, and of its worst row."""
    width = exact.shape[-1]
    exact = exact.reshape(-1, width)
    away = (found.reshape(-1, width).astype(jnp.float32) - exact) ** 2
    whole = jnp.sqrt(jnp.sum(away) / jnp.sum(exact**2))
    row = jnp.sqrt(jnp.max(jnp.sum(away, -1)) / jnp.mean(jnp.sum(exact**2, -1)))
    return whole, row


def _compare(compiled: tuple[Case, list[Any]], on_device: bool) -> dict[str, Any]:
    case, programs = compiled
    arguments = _draw(case.shapes)
    xla, *kernel = [np.array(each(arguments), np.float64) for each in programs]
    row: dict[str, Any] = {
        "xla_errors": dict(zip(case.names, xla[:, 0].tolist(), strict=True)),
        "xla_error": float(xla[:, 0].max()),
    }
    if not on_device:
        return row | {"status": "skipped", "note": "no such device: XLA's error alone"}
    kernels = count_kernels(programs[1].as_text())
    if not kernels:
        return row | {"status": "error", "note": "XLA's form ran, not the kernel"}
    # An array that XLA computes exactly may not make every rounding an infinite one.
    ratio = float(np.max(kernel[0] / np.maximum(xla, 1e-4)))
    good = ratio <= ALIKE
    return row | {
        "status": "done" if good else "error",
        "kernel_errors": dict(zip(case.names, kernel[0][:, 0].tolist(), strict=True)),
        "kernel_error": float(kernel[0][:, 0].max()),
        "ratio": ratio,
        "note": "as exact as XLA" if good else "NOT as exact as XLA",
    }


def _draw(shapes: Any) -> Any:
    """Draw arguments: weights as large as the layers start with, sorted indices."""
    rng = np.random.default_rng(1)

    def draw(leaf: Any) -> jax.Array:
        if leaf.dtype != jnp.int32:
            # Activations and gradients have rows; weights keep their products' size.
            is_weight = leaf.ndim == 2 and leaf.shape[0] not in (ROWS, 64)
            scale = leaf.shape[0] ** -0.5 if is_weight else 1.0
            some = scale * rng.standard_normal(leaf.shape, np.float32)
            return jnp.asarray(some, leaf.dtype)
        if leaf.ndim == 1:  # kept channels, of at least a hundred times as many
            return jnp.arange(leaf.shape[0], dtype=jnp.int32) * 7
        ends = rng.integers(1, leaf.shape[1], (leaf.shape[0], DOCUMENTS - 1, 1))
        documents = 1 + (np.arange(leaf.shape[1]) >= ends).sum(axis=1)
        return jnp.asarray(documents, jnp.int32)

    return jax.tree.map(draw, shapes)
