"""NVIDIA's own compiler takes the kernels: on any x86 Linux, without a GPU."""

import importlib.util
import re
import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn.kernels.bottleneck import BottleneckWeights
from lostjax.nn.kernels.gpu.blocks import choose_tiles
from lostjax.nn.kernels.gpu.products import mosaic_products
from lostjax.plan.costs import count_costs
from lostjax.plan.hlo_text import parse_program
from lostjax.plan.targets import find_target
from lostjax.train.config.presets import get_preset

if importlib.util.find_spec("jax_cuda12_plugin") is None:
    message = "no CUDA compiler, no GPU kernel was compiled: pip install -e '.[plan]'"
    warnings.warn(pytest.PytestWarning(message), stacklevel=1)
    pytest.skip(message, allow_module_level=True)

# Inputs, outputs and rank: up and gate, down, and the square q, k, v and o.
LAYERS = {}
for size in ("60m", "130m", "350m", "1b", "7b"):
    model = get_preset(f"lost_{size}").model
    LAYERS |= {
        f"{size} up": (model.d_model, model.d_hidden, model.rank),
        f"{size} down": (model.d_hidden, model.d_model, model.rank),
        f"{size} square": (model.d_model, model.d_model, model.rank),
    }
# Those whose kernels are chosen by default.
PAYING = [layer for layer in LAYERS if layer.split()[0] in ("60m", "130m", "350m")]
# Bytes that a thread may spill, once a tile, between the products.
SPILLS = 16


wherever_they_fit = partial(mosaic_products, cut=choose_tiles)


def unfused(x, siblings, *, activation):
    (w,) = siblings
    low_rank = activation(x @ w.a_MR) @ w.b_RN
    return (w.gamma * low_rank + (1 - w.gamma) * (x[:, w.kept_C] @ w.values_CN),)


def compile_training(
    n_inputs,
    n_outputs,
    rank,
    *,
    n_rows,
    activation=nn.silu,
    products=wherever_they_fit,
):
    """Compile forward and backward for one H100; give the program."""
    n_kept = max(1, n_inputs // 100)

    def train(x, g, a, b, values, kept):
        def product(x, a, b, values):
            own = BottleneckWeights(a, b, values, kept, 0.7)
            return products(x, [own], activation=activation)[0]

        y, pull = jax.vjp(product, x, a, b, values)
        return y, *pull(g)

    shapes = [
        (n_rows, n_inputs),
        (n_rows, n_outputs),
        (n_inputs, rank),
        (rank, n_outputs),
        (n_kept, n_outputs),
    ]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    arrays.append(jax.ShapeDtypeStruct((n_kept,), jnp.int32))
    devices = np.array(find_target("h100:1").devices)
    one = NamedSharding(Mesh(devices, ("gpu",)), P())
    step = jax.jit(train, in_shardings=one, out_shardings=one)
    return step.lower(*arrays).compile().as_text()


def assert_both_kernels(program, said):
    """The program calls both; ptxas, asked to speak, made both and made them well."""
    calls = re.findall(
        r'custom_call_target="mosaic_gpu_v2".*?op_name="([^"]*)"', program
    )
    kernels = ("lost_forward", "lost_backward")
    assert len(calls) == 2
    assert all(kernel in call for kernel, call in zip(kernels, calls, strict=True))
    for kernel in kernels:
        assert f"Compiling entry function '{kernel}_mosaic_gpu_kernel'" in said
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", said)]
    assert max(spills) <= SPILLS
    assert "Potential Performance Loss" not in said  # such as products one by one


@pytest.fixture
def loud_ptxas(monkeypatch, capfd):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    return lambda: "".join(capfd.readouterr())


@pytest.mark.parametrize("activation", [nn.silu, nn.gelu, None])
def test_a_small_shape_is_lowered_to_the_kernels(activation, loud_ptxas):
    program = compile_training(512, 1376, 128, n_rows=512, activation=activation)
    assert_both_kernels(program, loud_ptxas())


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_every_paper_shape_is_lowered_to_the_kernels(layer, loud_ptxas):
    program = compile_training(*LAYERS[layer], n_rows=8192)
    assert_both_kernels(program, loud_ptxas())


@pytest.mark.slow
@pytest.mark.parametrize("layer", PAYING)
def test_where_they_pay_they_save_four_tenths_of_the_unfused_bytes(layer):
    kernels, xla = (
        compile_training(*LAYERS[layer], n_rows=8192, products=products)
        for products in (mosaic_products, unfused)
    )
    assert kernels.count('custom_call_target="mosaic_gpu_v2"') == 2
    mine, theirs = (
        count_costs(parse_program(program), axes={"gpu": 1}).hbm_bytes
        for program in (kernels, xla)
    )
    assert mine <= 0.6 * theirs
