"""Static figures of the kernels, against what XLA makes of the same products.

    python benchmarks/kernels.py [--sizes 60m,350m] [--chip v5e] [--rows 8192]

Nothing runs, no TPU or GPU is needed, but their compilers are (`pip install -e
'.[plan]'`; the H100 needs no libtpu, the TPUs need no CUDA). For the MLP
up (d -> f) and down (f -> d) matrices of the papers' sizes and the square one (d -> d)
of their attention, and for siblings that read the same rows (gate and up; q, k and v),
in bfloat16, forward and in training (forward, then gradients of the rows and of all
weights):

    kernel       lostjax.nn.kernels.tpu.products, or mosaic_gpu
    one product  XLA's own compilation of lostjax.nn.kernels.bottleneck
    unfused      XLA's of the equation as it reads: two products, scaled and added
    dense        XLA's of one full matrix

`GFLOP` is the products' useful part by formula, without padding. `HBM` is bytes by
formula for a kernel and by cost analysis for XLA's forms, `us` their least time: for a
kernel the larger of schedule and bytes at the chip's published rate, for the others the
compiler's `optimal_seconds`. `bundles` are cycles of a steady grid step, `of floor`
over what its matrix instructions alone would take, `of FLOPs` over what their useful
part would, `spills` the registers that a step spills. On the H100 `HBM` is counted
alike in all programs (`lostjax.plan.costs`), `us` is the larger of FLOPs and bytes at
published rates (a kernel's FLOPs those of its tiles, on as many multiprocessors as have
one), `registers` and `spills` (bytes) are those of one thread.
All of it is static: a compiler's account, never a measured speed.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu_static import compile_for_h100  # before jax # isort: skip
from tpu_schedule import Schedule, compile_for, take_schedules  # before jax # isort: skip
from kernel_forms import (
    SIZES,
    Layer,
    arguments,
    dense_products,
    list_layers,
    run,
    unfused_products,
)

from lostjax.nn.kernels.bottleneck import bottleneck_products
from lostjax.nn.kernels.gpu import blocks as gpu_blocks
from lostjax.nn.kernels.gpu import products as mosaic_gpu
from lostjax.nn.kernels.tpu import blocks as tpu_blocks
from lostjax.nn.kernels.tpu import products as mosaic_tpu
from lostjax.train.devices.chips import CHIPS as PUBLISHED

# Chips: blocks, cycles a second of the matrix units, published peaks.
CHIPS = {
    "v5e": (tpu_blocks.V5E, 1.5e9, PUBLISHED["TPU v5e"]),
    "v5p": (tpu_blocks.V5P, 1.75e9, PUBLISHED["TPU v5p"]),
    "v6e": (tpu_blocks.V6E, 1.75e9, PUBLISHED["TPU v6e"]),
}
GPU = "h100"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Static figures of one form of one layer; None where there is no such figure."""

    layer: str
    passes: str
    form: str
    gigaflops: float
    hbm_megabytes: float
    microseconds: float
    kernels: list[dict[str, Any]]


def main() -> None:
    """Compile the layers asked for and print one table."""
    options = parse_options()
    print(f"{options.chip}, {options.rows} rows, bfloat16; static, not measured")
    told = (
        f"{'registers':>10}{'spills':>7}"
        if options.chip == GPU
        else f"{'bundles':>8}{'of floor':>9}{'of FLOPs':>9}{'spills':>7}"
    )
    print(
        f"{'layer':<15}{'pass':<10}{'form':<13}{'GFLOP':>8}{'HBM MB':>8}{'us':>8}"
        f"  {'kernel':<15}{told}"
    )
    everything = []
    for size in options.sizes.split(","):
        for layer in list_layers(size, rows=options.rows):
            for figures in compile_layer(layer, options.chip, options.passes):
                everything.append(dataclasses.asdict(figures))
                print_row(figures)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(SIZES), help="sizes, by commas")
    parser.add_argument("--chip", default="v5e", choices=[*CHIPS, GPU])
    parser.add_argument("--rows", type=int, default=8192, help="tokens in a step")
    parser.add_argument("--passes", default="forward,training", help="by commas")
    parser.add_argument("--json", default="", help="also write the figures there")
    options = parser.parse_args()
    for size in options.sizes.split(","):
        if size not in SIZES:
            parser.error(f"--sizes: {size!r} is not among {', '.join(SIZES)}")
    return options


def compile_layer(layer: Layer, chip: str, passes: str) -> Iterator[Figures]:
    """Compile every form of one layer."""
    on_gpu = chip == GPU
    forms: dict[str, Callable[..., Any]] = {
        "kernel": partial(mosaic_gpu.mosaic_products, cut=gpu_blocks.choose_tiles)
        if on_gpu
        else partial(mosaic_tpu.mosaic_products, chip=CHIPS[chip][0]),
        "one product": bottleneck_products,
        "unfused": unfused_products,
        "dense": dense_products,
    }
    for which in passes.split(","):
        for form, product in forms.items():
            step = partial(run, product, which)
            if on_gpu:
                if figures := gpu_figures(layer, which, form, step):
                    yield figures
                continue
            compiled = compile_for(chip, step, *arguments(layer, form, which))
            schedules = take_schedules("lost_")
            if form == "kernel":
                if not schedules or "tpu_custom_call" not in compiled.as_text():
                    raise SystemExit(f"{layer.name}: no kernel was lowered")
                yield kernel_figures(layer, chip, which, schedules)
            else:
                yield xla_figures(layer, which, form, compiled.cost_analysis())


def kernel_figures(
    layer: Layer, chip: str, which: str, schedules: list[Schedule]
) -> Figures:
    """Count a kernel's bytes by formula, its time by schedule and bytes."""
    tpu, clock, published = CHIPS[chip]
    names = [schedule.name.split(".")[0] for schedule in schedules]
    # Siblings share a kernel, or each has its own.
    together, rest = divmod(layer.siblings, names.count("lost_forward"))
    assert not rest
    sizes = layer.sizes(siblings=together)
    p, weights = layer.rows, layer.weights * together // layer.siblings
    hidden = layer.rank if which == "training" else 0
    ends = layer.inputs + together * (layer.outputs + hidden)
    flops = {"lost_forward": 2 * p * weights, "lost_backward": 4 * p * weights}
    bytes_of = {
        "lost_forward": 2 * (p * ends + weights),
        # x, h, g in; dx out; weights in, their gradients out.
        "lost_backward": 2 * (p * (ends + layer.inputs) + 2 * weights),
    }
    cuts = {
        "lost_forward": tpu_blocks.cut_forward(sizes, tpu),
        "lost_backward": tpu_blocks.cut_backward(sizes, tpu),
    }
    seconds, kernels = 0.0, []
    for schedule in schedules:
        name = schedule.name.split(".")[0]
        steps = p / (cuts[name].rows * tpu.cores)
        cycles = max(schedule.bundles, schedule.floor)
        seconds += max(steps * cycles / clock, bytes_of[name] / published.bandwidth)
        useful = flops[name] / published.flops * clock / steps
        kernels.append(
            dataclasses.asdict(schedule)
            | {"floor": schedule.floor, "useful": useful, "rows": cuts[name].rows}
        )
    return Figures(
        layer=layer.name,
        passes=which,
        form="kernel",
        gigaflops=sum(flops[name] for name in names) / 1e9,
        hbm_megabytes=sum(bytes_of[name] for name in names) / 1e6,
        microseconds=1e6 * seconds,
        kernels=kernels,
    )


def gpu_figures(
    layer: Layer, which: str, form: str, step: Callable[..., Any]
) -> Figures | None:
    """Count any form's bytes in its program, its time by published rates."""
    costs, kernels = compile_for_h100(step, *arguments(layer, form, which))
    n_kernels = layer.siblings * (2 if which == "training" else 1)
    if form == "kernel" and len(kernels) != n_kernels:
        print(f"{layer.name:<15}{which:<10}no kernel was lowered: the log says why")
        return None
    gigaflops = count_gigaflops(layer, which, form)
    published = PUBLISHED["NVIDIA H100"]
    products = 1e9 * gigaflops / published.flops
    if form == "kernel":
        products = gpu_seconds(layer, which)
    seconds = max(products, costs.hbm_bytes / published.bandwidth)
    return Figures(
        layer=layer.name,
        passes=which,
        form=form,
        gigaflops=gigaflops,
        hbm_megabytes=costs.hbm_bytes / 1e6,
        microseconds=1e6 * seconds,
        kernels=[dataclasses.asdict(kernel) for kernel in kernels],
    )


def gpu_seconds(layer: Layer, which: str) -> float:
    """Model the time of a kernel's products, and of XLA's beside it, on an H100."""

    def kernel(inputs: int, outputs: int) -> float:
        rank, kept = (gpu_blocks.round_up(n, 64) for n in (layer.rank, layer.kept))
        sizes = gpu_blocks.Sizes(layer.rows, inputs, outputs, rank, kept)
        tiles = gpu_blocks.choose_tiles(sizes)
        assert tiles is not None
        return gpu_blocks.matrix_seconds(sizes, tiles)

    forward = layer.siblings * kernel(layer.inputs, layer.outputs)
    if which == "forward":
        return forward
    beside = 2 * layer.rows * layer.weights / PUBLISHED["NVIDIA H100"].flops
    backward = layer.siblings * kernel(layer.outputs, layer.inputs)
    return forward + backward + beside


def count_gigaflops(layer: Layer, which: str, form: str) -> float:
    """Count the useful part of a form's products."""
    dense = layer.siblings * layer.inputs * layer.outputs
    weights = dense if form == "dense" else layer.weights
    return 2e-9 * layer.rows * weights * (3 if which == "training" else 1)


def xla_figures(layer: Layer, which: str, form: str, cost: dict[str, Any]) -> Figures:
    """Read the compiler's own account."""
    return Figures(
        layer=layer.name,
        passes=which,
        form=form,
        gigaflops=count_gigaflops(layer, which, form),
        hbm_megabytes=cost["bytes accessed"] / 1e6,
        # An operation whose time the compiler does not know counts as -1 second.
        microseconds=1e6 * (cost["optimal_seconds"] % 1),
        kernels=[],
    )


def print_row(figures: Figures) -> None:
    """Print one form, a line for each of its kernels."""
    row = (
        f"{figures.layer:<15}{figures.passes:<10}{figures.form:<13}"
        f"{figures.gigaflops:>8.1f}{figures.hbm_megabytes:>8.1f}"
        f"{figures.microseconds:>8.0f}"
    )
    if not figures.kernels:
        print(row, flush=True)
    for kernel in figures.kernels:
        told = (
            f"{kernel['registers']:>10}"
            if "registers" in kernel
            else f"{kernel['bundles']:>8}{kernel['bundles'] / kernel['floor']:>9.2f}"
            f"{kernel['bundles'] / kernel['useful']:>9.2f}"
        )
        print(f"{row}  {kernel['name']:<15}{told}{kernel['spills']:>7}", flush=True)
        row = " " * len(row)


if __name__ == "__main__":
    main()
