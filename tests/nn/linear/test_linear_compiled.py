"""What the compiled linear maps do: stacked, sharded, rematerialised."""

import re
from collections.abc import Callable
from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.nn import Dense, LowRank, LowRankSparse, SLTrain, project, save_bottlenecks

M, N, R = 64, 96, 16
LOST = LowRankSparse(N, R, delta=0.25, channel_groups=4)
FAMILY = {
    "dense": Dense,
    "low_rank": partial(LowRank, rank=R),
    "lost": partial(LowRankSparse, rank=R, delta=0.25, channel_groups=4),
    "sltrain": partial(SLTrain, rank=R),
}
KEY = jax.random.key(0)


class Block(nn.Module):
    make: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, _):
        first, second = (self.make(N, name=name) for name in "ab")
        y, z = project((first, second), x)
        return x + (y * z)[..., :M], None


def stack(make, n_layers=3):
    return nn.scan(
        Block,
        variable_axes={"params": 0, "channels": 0},
        split_rngs={"params": True},
        length=n_layers,
    )(make, name="layers")


@pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY.keys())
def test_stacked_layers_each_get_a_start_of_their_own(make):
    x = jax.random.normal(KEY, (4, M))
    model = stack(make)
    variables = jax.jit(model.init)(KEY, x, None)
    for leaf in jax.tree.leaves(variables):
        assert leaf.shape[0] == 3
    first = "kernel" if make is Dense else "a"
    starts = [
        layer for sibling in "ab" for layer in variables["params"][sibling][first]
    ]
    for i, one in enumerate(starts):
        for other in starts[:i]:
            assert not jnp.allclose(one, other)
    applied = str(jax.make_jaxpr(model.apply)(variables, x, None))
    for word in ("eigh", "random", "threefry", "while", "top_k"):
        assert word not in applied, f"apply draws a start again: {word}"
    assert jnp.all(jnp.isfinite(model.apply(variables, x, None)[0]))


MESHES = {
    "data": ((8,), ("data",), P()),
    "fsdp": ((8,), ("fsdp",), P("fsdp")),
    "both": ((2, 4), ("fsdp", "tensor"), P("fsdp", "tensor")),
    "turned": ((2, 4), ("fsdp", "tensor"), P("tensor", "fsdp")),
}


@lru_cache
def start_on_one_device(layer):
    return jax.jit(layer.init)(KEY, jnp.zeros((1, M)))


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
@pytest.mark.parametrize(
    "layer",
    [LOST.clone(correct_variance=True), SLTrain(N, R)],
    ids=lambda layer: type(layer).__name__,
)
def test_the_start_has_the_same_bits_on_every_mesh(layer, mesh):
    shape, names, spec = mesh
    devices = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))

    def sharding(leaf):
        return NamedSharding(devices, P(*spec[: leaf.ndim]))

    one = start_on_one_device(layer)
    shardings = jax.tree.map(sharding, one)
    many = jax.jit(layer.init, out_shardings=shardings)(KEY, jnp.zeros((1, M)))
    for got, want in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


ROW = {"a": P("tensor"), "b": P("tensor"), "values": P("tensor"), "kept": P()}
COLUMN = {"b": P(None, "tensor"), "values": P(None, "tensor")}


def collectives(layers, *, specs, x_spec, y_spec):
    """Widths of what devices send to each other in a forward pass."""
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    x = jax.ShapeDtypeStruct((48, M), jnp.float32)
    each = [jax.eval_shape(layer.init, KEY, x) for layer in layers]

    def forward(each, x):
        bound = [la.bind(v) for la, v in zip(layers, each, strict=True)]
        return project(bound, x)

    def sharding(path, _):
        return NamedSharding(mesh, specs.get(path[-1].key, P()))

    compiled = jax.jit(
        forward,
        in_shardings=(
            jax.tree_util.tree_map_with_path(sharding, each),
            NamedSharding(mesh, x_spec),
        ),
        out_shardings=(NamedSharding(mesh, y_spec),) * len(layers),
    ).lower(each, x)
    found = re.findall(
        r"= .*?\w\[([\d,]+)\].*? (all-gather|all-to-all|all-reduce|"
        r"collective-permute|reduce-scatter)(?:-start)?\(",
        compiled.compile().as_text(),
    )
    return [(kind, tuple(map(int, shape.split(",")))) for shape, kind in found]


def test_a_row_parallel_layer_gathers_from_its_own_inputs():
    sent = collectives([LOST], specs=ROW, x_spec=P("data", "tensor"), y_spec=P("data"))
    # 24 rows a device: the bottleneck and the output are summed, x stays at home.
    assert sorted(sent) == [("all-reduce", (24, R)), ("all-reduce", (24, N))]


def test_without_groups_it_does_not():
    layer = LOST.clone(channel_groups=1)
    sent = collectives([layer], specs=ROW, x_spec=P("data", "tensor"), y_spec=P("data"))
    assert len(sent) > 2


def test_column_parallel_siblings_send_nothing():
    sent = collectives(
        [LOST] * 3, specs=COLUMN, x_spec=P("data"), y_spec=P("data", "tensor")
    )
    assert not sent


def test_column_parallel_siblings_cut_over_their_rank_send_bottlenecks_only():
    sent = collectives(
        [LOST] * 3,
        specs=COLUMN | {"a": P(None, "tensor")},
        x_spec=P("data"),
        y_spec=P("data", "tensor"),
    )
    assert sorted(sent) == [("all-gather", (24, R + 16))] * 3


POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "bottleneck": save_bottlenecks,
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_gradients_are_the_same_whatever_is_kept(policy):
    layers, variables, x = two_layers()

    def loss(params, x):
        return jnp.sum(jnp.sin(forward(layers, variables, params, x)))

    params = [v["params"] for v in variables]
    kept = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    again = jax.jit(jax.grad(jax.checkpoint(loss, policy=policy), (0, 1)))(params, x)
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_only_bottlenecks_and_kept_channels_are_saved():
    layers, variables, x = two_layers()
    params = [v["params"] for v in variables]

    def saved(policy):
        def run(params, x):
            return forward(layers, variables, params, x)

        _, backward = jax.vjp(jax.checkpoint(run, policy=policy), params, x)
        rows = [leaf.shape for leaf in jax.tree.leaves(backward) if leaf.ndim == 2]
        return sorted(shape for shape in rows if shape[0] == len(x))

    def everything(*_, **__):
        return True

    inputs = [(len(x), M)]
    assert saved(jax.checkpoint_policies.nothing_saveable) == inputs
    # Two layers: r = 16 wide before the activation, and 16 and 24 kept channels.
    narrow = [(len(x), R)] * 3 + [(len(x), N // 4)]
    assert saved(save_bottlenecks) == sorted(inputs + narrow)
    assert (len(x), N) in saved(everything)


def test_a_layer_has_six_products_and_one_scatter():
    """Two forward, four backward: nothing is differentiated by the indices."""
    variables = LOST.init(KEY, jnp.zeros((1, M)))

    def loss(params, x):
        return jnp.sum(LOST.apply(variables | {"params": params}, x) ** 2)

    grad = jax.grad(loss, argnums=(0, 1))
    jaxpr = str(jax.make_jaxpr(grad)(variables["params"], jnp.ones((8, M))))
    assert jaxpr.count("dot_general[") == 6
    assert jaxpr.count("scatter-add[") == 1
    assert len(re.findall(r"\bgather\[", jaxpr)) == 1


def two_layers():
    layers = [LOST, LowRankSparse(M, R, delta=0.25)]
    variables = [
        LOST.init(KEY, jnp.zeros((1, M))),
        layers[1].init(KEY, jnp.zeros((1, N))),
    ]
    return layers, variables, jax.random.normal(KEY, (40, M))


def forward(layers, variables, params, x):
    for layer, start, own in zip(layers, variables, params, strict=True):
        x = jnp.tanh(layer.apply(start | {"params": own}, x))
    return x
