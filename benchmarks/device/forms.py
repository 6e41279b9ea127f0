"""What the check runs: forms of the model at the papers' sizes, one factor at a time.

Every form changes one thing of LOST as it is by default, except the dense model with
fused attention and LOST with everything. Activations are kept as the presets keep them:
the bottlenecks of LOST and CoLA (CoLA-M), everything in dense and SLTrain.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from unittest import mock

from lostjax.nn.kernels.gpu.blocks import choose_tiles
from lostjax.nn.kernels.gpu.products import mosaic_products
from lostjax.train.build import model as build
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import (
    AttentionName,
    LinearName,
    ModelConfig,
    OptimizerName,
    ProductName,
    RematName,
    TrainConfig,
)

VOCABULARY = 32_000
"""That of the papers' tokenizer."""

ROWS = {
    "gpu": {"60m": 128, "350m": 64, "1b": 32},
    # 16 GB, as the chips of Colab have.
    "tpu": {"60m": 64, "350m": 16},
}
"""Rows of 256 tokens in a timed step, by kind and size."""

SIZES = ("350m", "60m", "1b")
LARGEST = {"gpu": ("1b", "7b"), "tpu": ("350m", "1b")}
"""Sizes whose largest batch is looked for."""
FUSED: dict[str, AttentionName] = {"gpu": "cudnn", "tpu": "splash"}
KERNELS: dict[str, ProductName] = {"gpu": "mosaic_gpu", "tpu": "mosaic_tpu"}


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to train a size."""

    linear: LinearName = "lost"
    fused: bool = False
    """Attention by cuDNN or splash attention, not by XLA."""
    kernels: bool = False
    """Products by this library's kernels, not by XLA."""
    optim: OptimizerName = "adamw"
    remat: RematName | None = None
    """None: as the presets have it."""

    @property
    def changes_layer(self) -> bool:
        """Whether a single layer differs from LOST's own."""
        return dataclasses.replace(self, optim="adamw", remat=None) != Form()


BASE = "LOST"
FORMS = {
    BASE: Form(),
    "dense": Form("dense"),
    "LOST, fused attention": Form(fused=True),
    "LOST, our products": Form(kernels=True),
    "LOST, FRUGAL": Form(optim="frugal"),
    "CoLA": Form("cola"),
    "SLTrain": Form("sltrain"),
    "dense, fused attention": Form("dense", fused=True),
    "LOST, all three": Form(fused=True, kernels=True, optim="frugal"),
    "LOST, all kept": Form(remat="none"),
}
"""By name, the most telling first."""
TORCH = "dense, torch.compile"


def list_forms(size: str) -> list[str]:
    """List the forms of a size; the last ones are for 350m alone."""
    return list(FORMS) if size == "350m" else list(FORMS)[:-1]


def configure(size: str, form: Form, *, kind: str, toy: bool = False) -> TrainConfig:
    """Write the configuration of a form, as the trainer would take it.

    Args:
        size: one of `SIZES`.
        form: the form.
        kind: gpu or tpu; names the kernels.
        toy: shrink everything for a dry run.

    Returns:
        The configuration of one device.
    """
    preset = get_preset(f"{'llama' if form.linear == 'dense' else 'lost'}_{size}")
    kept = "bottleneck" if form.linear in ("lost", "cola") and not toy else "none"
    change = dataclasses.replace
    model = change(
        preset.model,
        linear=form.linear,
        delta=0.03 if form.linear == "sltrain" else preset.model.delta,
        remat=form.remat or kept,
        attention=FUSED[kind] if form.fused else "xla",
        product=KERNELS[kind] if form.kernels else "xla",
        # Time and memory of a step do not depend on the first values, and the SVDs of
        # 168 matrices take minutes.
        factors="scaled_normal",
        channels="random",
    )
    config = change(
        preset,
        mesh="data:1",
        batch_size=ROWS[kind].get(size, 64),
        model=shrink(model) if toy else model,
        optim=change(preset.optim, name=form.optim),
    )
    if toy:
        data = change(config.data, tokenizer="bytes", seq_len=32)
        config = change(config, batch_size=4, data=data)
    return config


def largest(size: str, rows: int, *, kind: str, toy: bool = False) -> TrainConfig:
    """Write the configuration that holds the largest batch: all that saves memory."""
    # A dry run's time is that of compiling, which FRUGAL doubles.
    form = Form(fused=True, optim="adamw" if toy else "frugal", remat="full")
    config = configure(size, form, kind=kind, toy=toy)
    return dataclasses.replace(config, batch_size=rows)


def shrink(model: ModelConfig) -> ModelConfig:
    """Shrink a model for a dry run; in float32, which compiles in half of the time."""
    return dataclasses.replace(
        model,
        d_model=32,
        n_layers=2,
        n_heads=2,
        d_hidden=88,
        rank=8,
        delta=0.1,
        dtype="float32",
    )


def vocabulary(config: TrainConfig) -> int:
    """Return the size of a configuration's vocabulary, without its tokenizer."""
    return 257 if config.data.tokenizer == "bytes" else VOCABULARY


@contextlib.contextmanager
def kernels_wherever_they_fit() -> Iterator[None]:
    """Use the GPU kernels also for shapes for which a model of time prefers XLA.

    The model has not been measured: this check is to measure it.
    """
    everywhere = partial(mosaic_products, cut=choose_tiles)
    with mock.patch.dict(build.KERNELS, mosaic_gpu=everywhere):
        yield
