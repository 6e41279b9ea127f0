"""The TPU kernels mean what the products in jnp mean: in JAX's interpreter of TPUs."""

import logging
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lostjax.nn import LowRank, LowRankSparse
from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.nn.kernels.tpu.blocks import V5E, V6E, Chip, Sizes, cut_backward
from lostjax.nn.kernels.tpu.products import mosaic_products, on_tpu

# What rounding each result once to the type, and sums over 300, may differ by.
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2}

# The interpreter as it is: what was never written is NaN.
FRESH = pltpu.InterpretParams()


def everywhere(kernel, meaning, *args):
    del meaning
    return kernel(*args)


interpreted = partial(mosaic_products, chip=V5E, choose=everywhere)


def count_kernels(x_PM, siblings, **options):
    """Count the kernels of one forward pass."""
    run = partial(interpreted, activation=nn.silu, **options)
    return str(jax.make_jaxpr(run)(x_PM, siblings)).count("name=lost_forward")


def draw(sizes, *, dtype, seed=0):
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


def assert_same(
    sizes,
    *,
    dtype="float32",
    gamma=0.7,
    activation=nn.silu,
    interpret=FRESH,
    **options,
):
    x_PM, g_PN, weights = draw(sizes, dtype=dtype)
    kernel = partial(interpreted, **options)
    with pltpu.force_tpu_interpret_mode(interpret):
        got = value_and_gradients(
            kernel, x_PM, g_PN, weights, gamma=gamma, activation=activation
        )

    def wide(array):
        narrow = getattr(array, "dtype", None) == jnp.bfloat16
        return array.astype(jnp.float32) if narrow else array

    want = value_and_gradients(
        bottleneck_products,
        *jax.tree.map(wide, (x_PM, g_PN, weights)),
        gamma=gamma,
        activation=activation,
    )
    *arrays, dgamma = jax.tree.leaves(want)
    # Gamma's gradient is one sum over all outputs, of terms of either sign.
    terms = terms_of_gamma(*jax.tree.map(wide, (x_PM, g_PN, weights)), activation)
    scales = [max(float(np.abs(a).max()), 1e-3) for a in arrays] + [float(terms)]
    for one, other, scale in zip(
        jax.tree.leaves(got), [*arrays, dgamma], scales, strict=True
    ):
        assert one.shape == other.shape
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one / scale, other / scale, atol=TOLERANCE[dtype])


# Rows that fill no step, widths and kept channels that fill no register, and a gamma
# that leaves nothing of the kept channels. Other examples every time.
drawn = given(
    sizes=st.tuples(
        st.integers(1, 40) | st.integers(129, 600),
        st.integers(24, 160),
        st.integers(24, 160),
        st.sampled_from([16, 24, 40, 192]),
        st.just(0) | st.integers(1, 24),
    ),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    gamma=st.sampled_from([0.7, 1.0]),
)
# Seconds each: too slow to shrink. What failed is tried first the next time.
few = settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@few
@drawn
def test_values_and_all_gradients_are_those_of_the_meaning(sizes, dtype, gamma):
    assert_same(sizes, dtype=dtype, gamma=gamma)


@pytest.mark.torture
@settings(few, max_examples=40)
@drawn
def test_so_they_are_over_many_shapes(sizes, dtype, gamma):
    assert_same(sizes, dtype=dtype, gamma=gamma)


SMALL = (16, 40, 40, 16, 3)
EDGES = {
    "more_kept_channels_than_lanes": {"sizes": (24, 300, 40, 16, 140)},
    "gamma_one": {"sizes": SMALL, "gamma": 1.0},
    "no_activation": {"sizes": SMALL, "activation": None},
    "two_cores_and_rows_that_do_not_divide": {
        "sizes": (600, 24, 24, 16, 3),
        "chip": Chip(V5E.vmem_bytes, cores=2),
    },
    "rank_wider_than_lanes": {"sizes": (16, 200, 40, 144, 0)},
    "strips_of_the_rank_share_the_gather": {"sizes": (272, 200, 40, 144, 3)},
    "the_same_in_words_of_two_rows": {
        "sizes": (272, 200, 40, 144, 3),
        "dtype": "bfloat16",
    },
    "blocks_of_a_wider_unit": {"sizes": (272, 200, 40, 144, 3), "chip": V6E},
    "a_step_of_one_block_on_it": {"sizes": (24, 40, 40, 144, 3), "chip": V6E},
    "the_largest_rank": {"sizes": (24, 40, 40, 1024, 3), "dtype": "bfloat16"},
    "inputs_too_many_to_gather_between_products": {"sizes": (16, 3900, 24, 16, 3)},
}


# Each is near to another edge: `make slow` and `make kernels` run it.
NEAR = {
    "rank_wider_than_lanes",
    "strips_of_the_rank_share_the_gather",
    "blocks_of_a_wider_unit",
    "the_largest_rank",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in NEAR), id=name)
        for name in EDGES
    ],
)
def test_edges(name):
    assert_same(**EDGES[name])


FAMILIES = {
    "three": {"sizes": [(300, 48, 40, 16, 3)] * 3},
    "words_of_two_rows": {"sizes": [(144, 200, 40, 24, 5)] * 2, "dtype": "bfloat16"},
    "without_kept_channels": {"sizes": [(16, 40, 40, 16, 0)] * 2},
    "two_cores": {
        "sizes": [(600, 24, 24, 16, 3)] * 3,
        "chip": Chip(V5E.vmem_bytes, cores=2),
    },
    "unlike_widths": {
        "sizes": [(16, 40, 40, 16, 3), (16, 40, 56, 16, 3)],
        "n_kernels": 2,
    },
    "no_room_for_both": {
        "sizes": [(600, 256, 512, 128, 3)] * 2,
        "chip": Chip(14 * 2**20),
        "n_kernels": 2,
    },
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_siblings_that_read_the_same_rows(family):
    case = {"dtype": "float32", "n_kernels": 1, "chip": V5E} | family
    drawn = [
        draw(sizes, dtype=case["dtype"], seed=seed)
        for seed, sizes in enumerate(case["sizes"])
    ]
    x_PM, gs = drawn[0][0], tuple(g_PN for _, g_PN, _ in drawn)
    siblings = [
        weights._replace(gamma=jnp.float32(gamma))
        for (_, _, weights), gamma in zip(drawn, (0.2, 0.6, 0.9), strict=False)
    ]
    kernel = partial(interpreted, chip=case["chip"])
    assert count_kernels(x_PM, siblings, chip=case["chip"]) == case["n_kernels"]

    def train(product, x_PM, gs, siblings):
        kept = [weights.kept_C for weights in siblings]

        def forward(x_PM, learnt):
            whole = [w._replace(kept_C=k) for w, k in zip(learnt, kept, strict=True)]
            return product(x_PM, whole, activation=nn.silu)

        learnt = [weights._replace(kept_C=None) for weights in siblings]
        products, pull = jax.vjp(forward, x_PM, learnt)
        return products, pull(gs)

    with pltpu.force_tpu_interpret_mode(FRESH):
        got = jax.jit(partial(train, kernel))(x_PM, gs, siblings)

    def widen(array):
        return array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array

    wide = jax.tree.map(widen, (x_PM, gs, siblings))
    want = jax.jit(partial(train, bottleneck_products))(*wide)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.shape == other.shape
        scale = max(float(np.abs(other).max()), 1.0)
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        tolerance = TOLERANCE[case["dtype"]]
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


@pytest.fixture
def watched(monkeypatch):
    """What the race detector keeps, one for each kernel that was interpreted."""
    # As of jax 0.10 it has no public name, and may move.
    interpreter = pytest.importorskip(
        "jax._src.pallas.mosaic.interpret.interpret_pallas_call"
    )
    states, make = [], interpreter.RaceDetectionState

    def keep(**options):
        states.append(make(**options))
        return states[-1]

    monkeypatch.setattr(interpreter, "RaceDetectionState", keep)
    return states


# Vector memory for steps of 128 rows of the sizes below, and no more.
SHORT_STEPS = {"float32": Chip(6 * 2**20, cores=2), "bfloat16": Chip(21 * 2**18, 2)}
TWO_CORES = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.torture)]
)
def test_nothing_races_between_cores_or_with_copies(dtype, watched):
    sizes, chip = (400, 40, 40, 16, 3), SHORT_STEPS[dtype]
    cut = cut_backward(Sizes(*sizes, jnp.dtype(dtype).itemsize), chip)
    assert cut.rows == 128  # two steps for each core, the last one not full
    assert_same(sizes, dtype=dtype, chip=chip, interpret=TWO_CORES)
    assert len(watched) == 2, "forward and backward"
    for state in watched:
        assert state.writes and state.reads
        assert not state.races_found


def copy_and_overwrite(out, scratch, semaphore):
    scratch[...] = jnp.zeros_like(scratch)
    own = pl.ds(8 * pl.program_id(0), 8)
    copy = pltpu.make_async_copy(scratch, out.at[own], semaphore)
    copy.start()
    scratch[...] = jnp.ones_like(scratch)
    copy.wait()


def write(out, scratch, semaphore):
    del semaphore
    scratch[...] = jnp.zeros_like(scratch)
    out[...] = scratch[...]


@pytest.mark.parametrize(
    "kernel, place, raced",
    [
        (copy_and_overwrite, pl.BlockSpec(memory_space=pl.ANY), True),
        (write, pl.BlockSpec((8, 128), lambda core: (0, 0)), True),
        (write, pl.BlockSpec((8, 128), lambda core: (core, 0)), False),
    ],
)
def test_a_race_would_be_seen(kernel, place, raced, watched):
    run = pl.pallas_call(
        kernel,
        grid=(2,),
        out_specs=place,
        out_shape=jax.ShapeDtypeStruct((16, 128), jnp.float32),
        scratch_shapes=[pltpu.VMEM((8, 128), jnp.float32), pltpu.SemaphoreType.DMA],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=TWO_CORES,
    )
    jax.block_until_ready(jax.jit(run)())
    (state,) = watched
    assert state.races_found == raced


def test_a_program_for_another_platform_is_that_of_the_meaning():
    x_PM, _, weights = draw(SMALL, dtype="float32")
    got, want = (
        jax.jit(partial(products, activation=nn.silu))(x_PM, [weights, weights])
        for products in (mosaic_products, bottleneck_products)
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cpu"])
def test_the_platform_of_a_program_chooses_whatever_process_compiles_it(platform):
    x_PM, _, weights = draw(SMALL, dtype="float32")

    def train(x_PM, choose):
        def loss(x_PM):
            products = partial(mosaic_products, chip=V5E, choose=choose)
            return products(x_PM, [weights], activation=nn.silu)[0].sum()

        return jax.grad(loss)(x_PM)

    def kernels(choose):
        traced = jax.jit(partial(train, choose=choose)).trace(x_PM)
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        return program.count("tpu_custom_call")

    def nowhere(kernel, meaning, *args):
        del kernel
        return meaning(*args)

    assert kernels(on_tpu) == (2 if platform == "tpu" else 0)
    assert kernels(nowhere) == 0


REASONS = {
    "the device is a cpu": {"chip": None},
    "VMEM": {"chip": Chip(2**20)},
    "float16": {"dtype": jnp.float16},
    "rows": {"sizes": (0, 40, 40, 16, 3)},
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_fall_back_is_logged_once_with_its_reason(reason, caplog):
    case = {"chip": V5E, **REASONS[reason]}
    sizes = case.pop("sizes", SMALL)
    x_PM, _, weights = draw(sizes, dtype="float32")
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            products = partial(mosaic_products, activation=nn.silu, **case)
            (y_PN,) = jax.eval_shape(products, x_PM, [weights])
    assert y_PN.shape == (sizes[0], sizes[2])
    (record,) = caplog.records
    assert reason in record.message


@pytest.mark.parametrize("layer", [LowRankSparse(40, 16, delta=0.1), LowRank(40, 16)])
def test_a_layer_multiplies_with_the_function_that_it_is_given(layer):
    x_PM = jax.random.normal(jax.random.key(0), (16, 40))
    variables = jax.jit(layer.init)(jax.random.key(1), x_PM)
    kernel = layer.clone(product=interpreted)
    with pltpu.force_tpu_interpret_mode():
        got = jax.jit(kernel.apply)(variables, x_PM)
    assert "pallas_call" in str(jax.make_jaxpr(kernel.apply)(variables, x_PM))
    want = jax.jit(layer.apply)(variables, x_PM)
    np.testing.assert_allclose(got, want, atol=1e-5)
