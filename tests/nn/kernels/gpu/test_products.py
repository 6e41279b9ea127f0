"""The GPU kernels mean what the products in jnp mean: in JAX's interpreter of GPUs.

It runs bulk copies, barriers and matrix products, and raises where a barrier is passed
by. What it does not see is how shared memory is laid out
and what runs at the same time: `test_mosaic_gpu_compiled` has the real compiler's word.
"""

import dataclasses
import logging
import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lostjax.nn import LowRankSparse
from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.nn.kernels.gpu.blocks import (
    BLOCK,
    Sizes,
    Tiles,
    choose_paying_tiles,
    choose_tiles,
    fill_up,
    fits,
)
from lostjax.nn.kernels.gpu.elementwise import pull_through
from lostjax.nn.kernels.gpu.products import mosaic_products
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.train.config.presets import get_preset

# As of jax 0.10 the interpreter has no public name, and may move.
interpreter = pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.params")

# What was never written is NaN, and no copy reaches beyond an array ...
STRICT = interpreter.InterpretGPUParams()
# ... but where a width is no multiple of a tile's: the copy brings zeros, as on a GPU.
FILLING = interpreter.InterpretGPUParams(
    out_of_bounds_reads="uninitialized", uninitialized_memory="zero"
)

# What rounding each result, and what lies between the products, to bfloat16 may cost.
TOLERANCE = 1.5e-2


def everywhere(kernel, meaning, *args):
    del meaning
    return kernel(*args)


def interpreted(*args, tiles=None, **options):
    def cut(sizes):
        own = tiles or choose_tiles(sizes)
        assert own is not None, "the meaning would stand for itself"
        return own

    return mosaic_products(*args, cut=cut, choose=everywhere, **options)


def draw(sizes, *, dtype="bfloat16", seed=0):
    n_rows, n_inputs, n_outputs, rank, n_kept = sizes
    rng = np.random.default_rng(seed)

    def normal(*shape):
        scale = shape[0] ** -0.5
        return jnp.asarray(rng.normal(size=shape, scale=scale), dtype)

    weights = BottleneckWeights(normal(n_inputs, rank), normal(rank, n_outputs))
    if n_kept:
        kept = np.sort(rng.choice(n_inputs, n_kept, replace=False))
        kept_C = jnp.asarray(kept, jnp.int32)
        weights = weights._replace(values_CN=normal(n_kept, n_outputs), kept_C=kept_C)
    x_PM = jnp.asarray(rng.normal(size=(n_rows, n_inputs)), dtype)
    g_PN = jnp.asarray(rng.normal(size=(n_rows, n_outputs)), dtype)
    return x_PM, g_PN, weights


def value_and_gradients(products, x_PM, g_PN, weights, *, gamma, activation):
    """The output and the gradients of x, a, b, the kept values and gamma."""
    learnt = (weights.a_MR, weights.b_RN, weights.values_CN, jnp.float32(gamma))

    @jax.jit
    def run(x_PM, learnt, g_PN):
        def product(x_PM, learnt):
            a, b, values, gamma = learnt
            own = BottleneckWeights(a, b, values, weights.kept_C, gamma)
            return products(x_PM, [own], activation=activation)[0]

        y_PN, pull = jax.vjp(product, x_PM, learnt)
        return y_PN, *pull(g_PN)

    return run(x_PM, learnt, g_PN)


SMALL = Tiles(64, 64, 2)
CASES = {
    "rows_and_widths_that_no_tile_divides": {
        "sizes": (75, 80, 144, 24, 3),
        "tiles": SMALL,
        "mode": FILLING,
    },
    "two_warpgroups_and_more_columns_than_a_tile": {
        "sizes": (128, 128, 192, 192, 3),
        "tiles": Tiles(128, 128, 3),
        "mode": FILLING,
    },
    "as_many_kept_channels_as_a_tile": {"sizes": (64, 128, 64, 64, 60), "tiles": SMALL},
    "no_kept_channels_and_no_activation": {
        "sizes": (64, 64, 64, 64, 0),
        "activation": None,
        "tiles": SMALL,
    },
    "widths_that_must_be_filled_up": {"sizes": (64, 83, 135, 16, 7), "tiles": SMALL},
    "less_than_a_tile_of_columns": {"sizes": (64, 21, 5, 8, 2), "tiles": SMALL},
    "gamma_one": {"sizes": (64, 64, 128, 16, 2), "gamma": 1.0, "tiles": SMALL},
}


@partial(jax.jit, static_argnums=3)
def terms_of_gamma(x_PM, g_PN, weights, activation):
    """The norm of the terms that gamma's gradient sums."""
    full, none = (
        bottleneck_products(x_PM, [weights._replace(gamma=at)], activation=activation)[
            0
        ]
        for at in (1.0, 0.0)
    )
    return jnp.linalg.norm(g_PN * (full - none))


def assert_same(sizes, *, tiles=None, mode=STRICT, **options):
    case = {"gamma": 0.7, "activation": nn.silu} | options
    x_PM, g_PN, weights = draw(sizes)
    kernel = partial(interpreted, tiles=tiles)
    with interpreter.force_gpu_interpret_mode(mode):
        got = value_and_gradients(kernel, x_PM, g_PN, weights, **case)
    wide = jax.tree.map(
        lambda array: array.astype(jnp.float32) if array.dtype == x_PM.dtype else array,
        (x_PM, g_PN, weights._replace(gamma=jnp.float32(1))),
    )
    want = value_and_gradients(bottleneck_products, *wide, **case)
    # Gamma's gradient is one sum over all outputs, of terms of either sign.
    *arrays, _ = jax.tree.leaves(want)
    scales = [max(float(np.abs(array).max()), 1e-3) for array in arrays]
    scales.append(float(terms_of_gamma(*wide, case["activation"])))
    for one, other, scale in zip(
        jax.tree.leaves(got), jax.tree.leaves(want), scales, strict=True
    ):
        assert one.shape == other.shape
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one / scale, other / scale, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_all_gradients_are_those_of_the_meaning(case):
    assert_same(**case)


# The least rows, widths in pieces of 32, 64 and 128 bytes or to be filled up, ranks and
# kept channels that fill no block; cut as they would be for an H100. Other examples
# every time.
widths = st.integers(4, 12).map(lambda n: n * 16) | st.integers(60, 192)
drawn = given(
    sizes=st.tuples(
        st.integers(57, 200),
        widths,
        widths,
        st.sampled_from([16, 24, 64, 136]),
        st.just(0) | st.integers(1, 60),
    ),
    gamma=st.sampled_from([0.7, 1.0]),
    activation=st.sampled_from([nn.silu, nn.gelu, None]),
)
# Seconds each: too slow to shrink. What failed is tried first the next time.
few = settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@few
@drawn
def test_so_they_are_for_any_shape(sizes, gamma, activation):
    assert_same(sizes, mode=FILLING, gamma=gamma, activation=activation)


@pytest.mark.torture
@settings(few, max_examples=30)
@drawn
def test_so_they_are_for_many_shapes(sizes, gamma, activation):
    assert_same(sizes, mode=FILLING, gamma=gamma, activation=activation)


def test_a_layer_multiplies_with_the_function_that_it_is_given():
    layer = LowRankSparse(64, 16, delta=0.1, dtype=jnp.bfloat16)
    x_PM = jax.random.normal(jax.random.key(0), (64, 64))
    variables = jax.jit(layer.init)(jax.random.key(1), x_PM)
    kernel = layer.clone(product=interpreted)
    with interpreter.force_gpu_interpret_mode(STRICT):
        got = jax.jit(kernel.apply)(variables, x_PM)
    want = jax.jit(layer.apply)(variables, x_PM)
    np.testing.assert_allclose(
        *(np.asarray(y, np.float32) for y in (got, want)), atol=0.02
    )


def test_a_program_for_another_platform_is_that_of_the_meaning():
    x_PM, g_PN, weights = draw((72, 64, 64, 64, 3))
    results = [
        value_and_gradients(
            products, x_PM, g_PN, weights, gamma=0.7, activation=nn.silu
        )
        for products in (
            partial(mosaic_products, cut=choose_tiles),
            bottleneck_products,
        )
    ]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        one, other = (np.asarray(array, np.float32) for array in (one, other))
        # XLA rounds to bfloat16 where its fusions end, not the same in both programs.
        np.testing.assert_allclose(one, other, atol=2**-7 * np.abs(other).max())


FITTING = (72, 64, 64, 16, 3)
REASONS = {
    "bfloat16, not float32": {"dtype": jnp.float32},
    "48 rows": {"sizes": (48, 64, 64, 16, 3)},
    "do not fit in shared memory": {"sizes": (72, 64, 64, 2048, 3)},
    "is estimated to be as fast": {},
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_fall_back_is_logged_once_with_its_reason(reason, caplog):
    case = dict(REASONS[reason])
    sizes = case.pop("sizes", FITTING)
    x_PM, _, weights = draw(sizes)
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            products = partial(mosaic_products, activation=nn.silu, **case)
            (y_PN,) = jax.eval_shape(products, x_PM, [weights])
    assert y_PN.shape == (sizes[0], sizes[2])
    (record,) = caplog.records
    assert reason in record.message


def test_another_gpu_gets_the_meaning(caplog):
    class Ampere:
        platform, device_kind = "gpu", "NVIDIA A100-SXM4-80GB"

    x_PM, _, weights = draw(FITTING)
    log_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(jax, "devices", lambda: [Ampere()])
        mosaic_products(x_PM, [weights], activation=nn.silu)
    assert "A100" in caplog.records[0].message


def test_an_h200s_own_bandwidth_decides(caplog):
    """Its memory is faster, so XLA's products of 350m are not bound by it."""
    x_PM, _, weights = draw((8192, 1024, 1024, 256, 10))
    for kind, falls_back in (("NVIDIA H100 80GB HBM3", False), ("NVIDIA H200", True)):
        device = types.SimpleNamespace(platform="gpu", device_kind=kind)
        log_once.cache_clear()
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(jax, "devices", lambda device=device: [device])
            jax.eval_shape(
                lambda x: mosaic_products(x, [weights], activation=nn.silu), x_PM
            )
        assert bool(caplog.records) == falls_back
    assert "estimated to be as fast" in caplog.records[0].message


@settings(deadline=None, derandomize=True)
@given(
    sizes=st.builds(
        Sizes,
        rows=st.integers(8, 40).map(lambda n: n * 8),
        inputs=st.integers(1, 12800),
        outputs=st.integers(1, 12800),
        rank=st.integers(1, 20).map(lambda n: n * BLOCK),
        kept=st.integers(0, 3).map(lambda n: n * BLOCK),
    )
)
def test_tiles_fit_a_block_and_the_arrays(sizes):
    tiles = choose_tiles(sizes)
    if tiles is None:
        for columns in range(BLOCK, min(128, fill_up(sizes.outputs)) + 1, BLOCK):
            narrow = columns < min(sizes.rank, 128)
            assert narrow or not fits(sizes, Tiles(64, columns, 2))
        return
    assert fits(sizes, tiles)
    assert tiles.rows <= sizes.rows
    assert tiles.columns <= fill_up(sizes.outputs)
    assert tiles.columns % BLOCK == 0


def test_a_block_has_the_rows_that_keep_most_of_the_chip_busy():
    def rows_of(n_rows):
        return choose_tiles(Sizes(n_rows, 1024, 2736, 256, 64)).rows

    assert rows_of(8192) == 64  # 128 blocks rather than 64, for 132 multiprocessors
    assert rows_of(132 * 128) == 128
    assert rows_of(132 * 128 + 64) == 64  # three rounds of 64 rather than two of 128


@pytest.mark.parametrize("size", ["60m", "130m", "350m", "1b", "7b"])
def test_paper_layers_have_tiles_and_pay_where_bytes_bind(size):
    model = get_preset(f"lost_{size}").model
    width, hidden, rank = model.d_model, model.d_hidden, model.rank
    for inputs, outputs in ((width, hidden), (hidden, width), (width, width)):
        kept = -(-(inputs // 100) // BLOCK) * BLOCK
        sizes = Sizes(8192, inputs, outputs, rank, kept)
        assert choose_tiles(sizes)
        assert (choose_paying_tiles(sizes) is not None) == (rank <= 256)
        on_h200 = choose_paying_tiles(sizes, device_kind="NVIDIA H200")
        assert (on_h200 is not None) == (
            size == "60m" or (size == "130m" and inputs == outputs)
        )
        few = dataclasses.replace(sizes, rows=1024)
        assert choose_paying_tiles(few) is None


@pytest.mark.parametrize("ends", [(1024, 2735), (1025, 2736)])
def test_copies_that_fill_widths_up_are_too_many_bytes_to_pay(ends):
    assert choose_paying_tiles(Sizes(8192, 1024, 2736, 256, 64))
    assert choose_tiles(Sizes(8192, *ends, 256, 64))
    assert choose_paying_tiles(Sizes(8192, *ends, 256, 64)) is None


@pytest.mark.parametrize("activation", [nn.silu, nn.gelu, nn.relu, jnp.tanh])
def test_a_derivative_without_add_any_is_the_derivative(activation):
    x = np.linspace(-3, 3, 12, dtype=np.float32)
    gradient = np.linspace(1, 2, 12, dtype=np.float32)
    want = gradient * jax.jit(jax.vmap(jax.grad(activation)))(x)
    got = jax.jit(partial(pull_through, activation))(x, gradient)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    program = str(jax.make_jaxpr(partial(pull_through, activation))(x, gradient))
    assert "add_any" not in program
