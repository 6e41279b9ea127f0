"""Products on a mesh mean what they mean on one device, and x stays where it is."""

import logging
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn import LowRankSparse, project
from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.nn.kernels.sharded import ShardedProducts
from lostjax.nn.kernels.tpu.blocks import V5E
from lostjax.nn.kernels.tpu.products import mosaic_products
from lostjax.plan.collectives import find_collectives
from lostjax.plan.hlo_text import parse_program

ROWS, M, N, R, C, GROUPS = 64, 48, 80, 16, 8, 4
BATCH = ("data", "fsdp")
MESHES = {"data:8": (8, 1, 1), "data:4,fsdp:2": (4, 2, 1), "data:2,tensor:4": (2, 1, 4)}


def make_mesh(name):
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(MESHES[name], axes, axis_types=(AxisType.Auto,) * 3)


def interpreted(*args, **options):
    def everywhere(kernel, meaning, *args):
        del meaning
        return kernel(*args)

    return mosaic_products(*args, **options, chip=V5E, choose=everywhere)


def draw(n_siblings, *, sparse=True, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape, scale=shape[0] ** -0.5), jnp.float32)

    def sibling():
        weights = BottleneckWeights(normal(M, R), normal(R, N), gamma=jnp.float32(0.7))
        if not sparse:
            return weights
        width = M // GROUPS
        kept = [
            group * width + np.sort(rng.choice(width, C // GROUPS, replace=False))
            for group in range(GROUPS)
        ]
        kept_C = jnp.asarray(np.concatenate(kept), jnp.int32)
        return weights._replace(values_CN=normal(C, N), kept_C=kept_C)

    siblings = [sibling() for _ in range(n_siblings)]
    return normal(ROWS, M) * 8, siblings, [normal(ROWS, N) * 8 for _ in siblings]


def train(product, *, activation=nn.silu, channel_groups=GROUPS):
    """Make values and gradients a function of rows, weights and what flows back."""

    def run(x_PM, siblings, gs):
        kept = [weights.kept_C for weights in siblings]

        def forward(x_PM, learnt):
            whole = [w._replace(kept_C=k) for w, k in zip(learnt, kept, strict=True)]
            return product(
                x_PM, whole, activation=activation, channel_groups=channel_groups
            )

        learnt = [weights._replace(kept_C=None) for weights in siblings]
        y, pull = jax.vjp(forward, x_PM, learnt)
        return y, pull(tuple(gs))

    return jax.jit(run)


def assert_same(product, *, n_siblings=2, sparse=True):
    arrays = draw(n_siblings, sparse=sparse)
    want = train(bottleneck_products)(*arrays)
    got = train(product)(*arrays)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one / scale, other / scale, atol=3e-6)


@pytest.mark.parametrize(
    "mesh, cut",
    [
        ("data:2,tensor:4", "outputs"),
        ("data:2,tensor:4", "inputs"),
        ("data:4,fsdp:2", "outputs"),
        # Without a tensor axis nothing is cut: as the one above.
        pytest.param("data:4,fsdp:2", "inputs", marks=pytest.mark.slow),
        pytest.param("data:8", "outputs", marks=pytest.mark.slow),
        pytest.param("data:8", "inputs", marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_are_those_of_one_device(mesh, cut):
    assert_same(
        ShardedProducts(bottleneck_products, make_mesh(mesh), BATCH, **{cut: "tensor"})
    )


def test_without_kept_channels_too():
    mesh = make_mesh("data:2,tensor:4")
    product = ShardedProducts(bottleneck_products, mesh, BATCH, inputs="tensor")
    assert_same(product, n_siblings=1, sparse=False)


@pytest.mark.parametrize(
    "mesh",
    [pytest.param("data:4,fsdp:2", marks=pytest.mark.slow), "data:2,tensor:4"],
)
def test_the_kernel_runs_on_what_each_device_holds(mesh):
    product = ShardedProducts(interpreted, make_mesh(mesh), BATCH, outputs="tensor")
    x_PM, siblings, gs = draw(1)
    assert "pallas_call" in str(jax.make_jaxpr(train(product))(x_PM, siblings, gs))
    with pltpu.force_tpu_interpret_mode():
        assert_same(product, n_siblings=1)


STORED = {
    # As the trainer's table stores them: columns cut over outputs, rows over inputs.
    "outputs": BottleneckWeights(
        P("fsdp"), P(None, ("tensor", "fsdp")), P(None, ("tensor", "fsdp")), P(), P()
    ),
    "inputs": BottleneckWeights(*[P("tensor", "fsdp")] * 3, P(), P()),
}


def sent(product, mesh, cut, n_siblings=1):
    """Compile forward and backward of arrays as a trainer shards them."""
    x_spec, y_spec = P(BATCH), P(BATCH, "tensor")
    if cut == "inputs":
        x_spec, y_spec = y_spec, x_spec

    def place(spec):
        return NamedSharding(mesh, spec)

    weights = jax.tree.map(place, STORED[cut], is_leaf=lambda leaf: isinstance(leaf, P))
    x, y = place(x_spec), place(y_spec)
    step = jax.jit(
        train(product),
        in_shardings=(x, [weights] * n_siblings, [y] * n_siblings),
        out_shardings=(
            (y,) * n_siblings,
            (x, [weights._replace(kept_C=None)] * n_siblings),
        ),
    )
    text = step.lower(*draw(n_siblings)).compile().as_text()
    return find_collectives(parse_program(text), dict(mesh.shape))


def test_under_data_only_gradients_of_weights_travel():
    mesh = make_mesh("data:8")
    product = ShardedProducts(bottleneck_products, mesh, BATCH, outputs="tensor")
    (only,) = sent(product, mesh, "outputs")
    assert (only.kind, only.axes) == ("all-reduce", "data")
    assert only.bytes == 2 * 7 / 8 * 4 * (M * R + R * N + C * N + 1)


def test_under_fsdp_weights_are_gathered_and_no_row_of_x():
    mesh = make_mesh("data:4,fsdp:2")
    product = ShardedProducts(bottleneck_products, mesh, BATCH, outputs="tensor")
    found = sent(product, mesh, "outputs")
    gathered = sum(each.bytes for each in found if each.kind == "all-gather")
    assert gathered == 1 / 2 * 4 * (M * R + R * N + C * N)
    assert {each.kind for each in found} == {"all-gather", "all-reduce"}


def test_under_tensor_siblings_send_one_gradient_of_x():
    mesh = make_mesh("data:2,tensor:4")
    product = ShardedProducts(bottleneck_products, mesh, BATCH, outputs="tensor")
    found = sent(product, mesh, "outputs", n_siblings=3)
    assert {each.kind for each in found} == {"all-reduce"}
    (rows,) = [each for each in found if each.axes == "tensor"]
    # As dense siblings would; and the weights' gradients over their own copies.
    assert rows.bytes == 2 * 3 / 4 * 4 * ROWS / 2 * M


def test_under_tensor_a_row_parallel_product_gathers_from_its_own_inputs():
    mesh = make_mesh("data:2,tensor:4")
    product = ShardedProducts(bottleneck_products, mesh, BATCH, inputs="tensor")
    found = sent(product, mesh, "inputs")
    found = {(each.kind, each.axes): each.bytes for each in found}
    rows = 4 * ROWS / 2
    assert found.pop(("all-reduce", "tensor")) == 2 * 3 / 4 * rows * N  # y is summed
    assert found.pop(("reduce-scatter", "tensor")) == 3 / 4 * rows * R  # so is x A
    assert found.pop(("all-gather", "tensor")) == 3 / 4 * rows * R  # and its gradient
    assert {axes for _, axes in found} <= {"data", "data+tensor"}


MISFITS = {
    "62 rows": {"n_rows": 62},
    "2 channel groups": {"channel_groups": 2},
    "summed before its activation": {"product": mosaic_products},
}


@pytest.mark.parametrize("reason", MISFITS)
def test_a_fall_back_means_the_same_and_is_logged_once_with_its_reason(reason, caplog):
    case = {"n_rows": ROWS, "channel_groups": GROUPS, "product": bottleneck_products}
    case |= MISFITS[reason]
    mesh = make_mesh("data:2,tensor:4")
    rows = BATCH if reason != "62 rows" else ("data", "tensor")
    inputs = "tensor" if reason != "62 rows" else None
    product = ShardedProducts(case["product"], mesh, rows, inputs=inputs)
    x_PM, siblings, _ = draw(1)
    options = {"activation": nn.silu, "channel_groups": case["channel_groups"]}
    log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            run = jax.jit(partial(product, **options))
            (got,) = run(x_PM[: case["n_rows"]], siblings)
    (record,) = caplog.records
    assert reason in record.message
    meant = jax.jit(partial(bottleneck_products, **options))
    (want,) = meant(x_PM[: case["n_rows"]], siblings)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_layer_takes_it_as_its_product():
    mesh = make_mesh("data:2,tensor:4")
    product = ShardedProducts(mosaic_products, mesh, BATCH, outputs="tensor")
    layers = [LowRankSparse(N, R, delta=0.2, name=name) for name in "ab"]
    x_PM, _, _ = draw(1)
    each = [jax.jit(layer.init)(jax.random.key(0), x_PM) for layer in layers]

    def apply(product):
        def run(x_PM):
            bound = [
                layer.clone(product=product).bind(variables)
                for layer, variables in zip(layers, each, strict=True)
            ]
            return project(bound, x_PM)

        return jax.jit(run)(x_PM)

    pairs = zip(apply(product), apply(bottleneck_products), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_an_axis_that_the_mesh_does_not_have_is_named():
    with pytest.raises(ValueError, match="'model' is not a mesh axis; .* data"):
        ShardedProducts(
            bottleneck_products, make_mesh("data:8"), BATCH, outputs="model"
        )
