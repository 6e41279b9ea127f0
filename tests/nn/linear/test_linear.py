"""The contract of every linear map: one table, one row a family member."""

from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import (
    Dense,
    LowRank,
    LowRankSparse,
    SLTrain,
    largest_channels,
    project,
    random_channels,
    scaled_normal_factors,
)

M, N, R = 32, 48, 8

LOST = partial(LowRankSparse, rank=R, delta=0.25, gamma=0.6)
FAMILY = {
    "dense": Dense,
    "low_rank": partial(LowRank, rank=R),
    "cola": partial(
        LowRank, rank=R, activation=nn.silu, factorize=scaled_normal_factors
    ),
    "sltrain": partial(SLTrain, rank=R, delta=0.1, alpha=3.0),
    "sltrain_low_rank": partial(SLTrain, rank=R, delta=0.0, alpha=3.0),
    "lost": LOST,
    "lost_linear": partial(LOST, activation=None),
    "lost_grouped": partial(LOST, channel_groups=4),
    "lost_learnt": partial(LOST, learn_gamma=True),
    "lost_gamma_1": partial(LOST, gamma=1.0),
    "lost_all_kept": partial(LOST, delta=1.0),
    "lost_without_sparse": partial(LOST, delta=0.0),
}
family = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY.keys())


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 5, M))


# One program a layer and shape: op by op, each operation would compile.


@partial(jax.jit, static_argnums=0)
def start(layer, key, x):
    return layer.init(key, x)


@partial(jax.jit, static_argnums=0)
def apply(layer, variables, x):
    return layer.apply(variables, x)


@partial(jax.jit, static_argnums=0)
def start_and_apply(layer, key, x):
    return layer.init_with_output(key, x)[0]


@lru_cache
def variables_of(layer, seed=0):
    """Starting variables moved off their start, where SLTrain's b is zero."""
    variables = start(layer, jax.random.key(seed), jnp.zeros((1, M)))
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        variables["params"],
    )
    return {**variables, "params": moved}


def reference(layer, variables, x):
    """The equations as the papers write them, term by term."""
    params, kept = variables["params"], variables.get("channels", {})
    if isinstance(layer, Dense):
        return x @ params["kernel"]
    if isinstance(layer, SLTrain):
        dense = layer.alpha / layer.rank * params["a"] @ params["b"]
        if "values" in params:
            sparse = jnp.zeros(M * N).at[kept["support"]].set(params["values"])
            dense = dense + sparse.reshape(M, N)
        return x @ dense
    hidden = x @ params["a"]
    y = (layer.activation(hidden) if layer.activation else hidden) @ params["b"]
    if isinstance(layer, LowRank):
        return y
    gamma = params.get("gamma", layer.gamma)
    if "values" not in params:
        return gamma * y
    return gamma * y + (1 - gamma) * (x[..., kept["kept"]] @ params["values"])


@family
def test_values_and_gradients_equal_the_unfused_equations_eager_and_jitted(make, x):
    layer = make(features=N)
    variables = variables_of(layer)
    others = {k: v for k, v in variables.items() if k != "params"}

    def loss(apply, params, x):
        y = apply({"params": params, **others}, x)
        return jnp.sum(jnp.sin(y)), y

    def both(apply):
        grad = jax.grad(partial(loss, apply), argnums=(0, 1), has_aux=True)
        return jax.tree.leaves(jax.jit(grad)(variables["params"], x))

    expected = both(partial(reference, layer))
    eager = layer.apply(variables, x)
    np.testing.assert_allclose(eager, expected[-1], atol=2e-6)
    for got, want in zip(both(layer.apply), expected, strict=True):
        scale = float(jnp.max(jnp.abs(want))) or 1.0
        np.testing.assert_allclose(got / scale, want / scale, atol=1e-6)


@family
def test_parameter_count_is_the_formula(make, x):
    layer = make(features=N)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert layer.parameter_count(M) == count


@family
def test_flops_are_those_of_its_matrix_products(make, x):
    layer = make(features=N)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    products = dot_generals(layer.apply, variables, x)
    rows = x.size // M
    once_a_step = 2 * R * M * N if isinstance(layer, SLTrain) else 0
    assert sum(products) == rows * layer.flops(M) + once_a_step


def test_sizes_of_the_papers_layer():
    # notes' table: 350M's MLP at r = 256, delta = .01: FLOPs .353 of dense.
    lost = LowRankSparse(2736, 256, delta=0.01)
    assert lost.parameter_count(1024) == 256 * (1024 + 2736) + 10 * 2736
    assert lost.flops(1024) / Dense(2736).flops(1024) == pytest.approx(0.3533, abs=1e-4)
    assert SLTrain(2736, 256, delta=0.03).parameter_count(1024) == 962560 + 84049


@family
def test_leading_axes_are_free(make, x):
    layer = make(features=N)
    variables = variables_of(layer)
    y = apply(layer, variables, x)
    assert y.shape == (2, 5, N)
    flat = apply(layer, variables, x.reshape(10, M))
    np.testing.assert_allclose(y.reshape(10, N), flat, atol=1e-6)
    np.testing.assert_allclose(apply(layer, variables, x[1, 2]), y[1, 2], atol=2e-6)
    empty = jax.eval_shape(layer.apply, variables, x[:, :0])
    assert empty.shape == (2, 0, N)


@family
def test_bfloat16(make, x):
    layer = make(features=N, dtype=jnp.bfloat16)
    variables = variables_of(make(features=N))
    own = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(own["params"])} == {
        jnp.dtype("float32")
    }
    low = x.astype(jnp.bfloat16)
    y = apply(layer, variables, low)
    assert y.dtype == jnp.bfloat16
    exact = apply(make(features=N), variables, x)
    assert exact.dtype == jnp.float32
    error = np.linalg.norm(np.float32(y) - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 2e-2
    mixed = jax.eval_shape(make(features=N).apply, variables, low)
    assert mixed.dtype == jnp.float32


@family
def test_parameters_take_their_type(make, x):
    layer = make(features=N, param_dtype=jnp.bfloat16)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.leaves(shapes["params"])
    assert {leaf.dtype for leaf in params} == {jnp.dtype("bfloat16")}
    for leaf in jax.tree.leaves(shapes.get("channels", {})):
        assert leaf.dtype == jnp.int32


@family
def test_siblings_together_equal_each_alone(make, x):
    layers = [make(features=features) for features in (N, 16, N)]
    each = [variables_of(layer, seed) for seed, layer in enumerate(layers)]

    def together(x):
        return project([la.bind(v) for la, v in zip(layers, each, strict=True)], x)

    def alone(x):
        return tuple(la.apply(v, x) for la, v in zip(layers, each, strict=True))

    def both(apply):
        def loss(x):
            ys = apply(x)
            return sum(jnp.sum(jnp.sin(y)) for y in ys), ys

        gradient, ys = jax.jit(jax.grad(loss, has_aux=True))(x)
        return ys, gradient

    (got, gradient), (want, expected) = both(together), both(alone)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-6)
    np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_siblings_share_one_down_product_and_one_gather(x):
    layers = [LOST(features=N) for _ in range(3)]
    each = [variables_of(layer) for layer in layers]

    def together(x):
        return project([la.bind(v) for la, v in zip(layers, each, strict=True)], x)

    jaxpr = str(jax.make_jaxpr(together)(x))
    assert jaxpr.count("dot_general[") == 4
    assert jaxpr.count(" gather[") == 1


def test_what_are_no_siblings_is_refused(x):
    one, other = LOST(features=N), LOST(features=N, gamma=0.5)
    bound = [layer.bind(variables_of(layer)) for layer in (one, other)]
    with pytest.raises(ValueError, match="not siblings"):
        project(bound, x)
    with pytest.raises(ValueError, match="layers="):
        project((), x)


@pytest.mark.parametrize("name", ["dense", "cola", "sltrain", "lost"])
def test_one_seed_one_start_and_another_another(name, x):
    layer = FAMILY[name](features=N)
    one, same, other = (start(layer, jax.random.key(s), x) for s in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    first = "kernel" if "kernel" in one["params"] else "a"
    assert not np.allclose(one["params"][first], other["params"][first])


OPTIONS = {
    "rank": {"rank": 4},
    "gamma": {"gamma": 0.5},
    "delta": {"delta": 0.5},
    "no_sparse_part": {"delta": 0.0},
    "activation": {"activation": None},
    "random_channels": {"choose_channels": random_channels},
    "largest_channels": {"choose_channels": largest_channels},
    "channel_groups": {"channel_groups": 8},
    "factorize": {"factorize": scaled_normal_factors},
    "correct_variance": {"correct_variance": True},
    "kernel_init": {"kernel_init": nn.initializers.normal(0.05)},
}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_of_lost_changes_the_output(option, x):
    layers = LOST(features=N), LOST(features=N, **option)
    y, z = (np.asarray(start_and_apply(la, jax.random.key(0), x)) for la in layers)
    assert np.max(np.abs(y - z)) > 1e-2 * np.max(np.abs(y))


@pytest.mark.parametrize(
    "option",
    [
        {"rank": 4}, {"activation": nn.silu}, {"factorize": scaled_normal_factors},
        {"correct_variance": True},
    ],
)  # fmt: skip
def test_every_option_of_low_rank_changes_the_output(option, x):
    layers = LowRank(N, R), LowRank(**({"features": N, "rank": R} | option))
    y, z = (np.asarray(start_and_apply(la, jax.random.key(0), x)) for la in layers)
    assert np.max(np.abs(y - z)) > 1e-2 * np.max(np.abs(y))


def test_a_learnt_gamma_is_a_parameter_with_a_gradient(x):
    layer = LOST(features=N, learn_gamma=True)
    variables = start(layer, jax.random.key(0), x)
    fixed = start_and_apply(LOST(features=N), jax.random.key(0), x)
    np.testing.assert_allclose(apply(layer, variables, x), fixed, atol=1e-7)

    @jax.jit
    @jax.grad
    def slope(params):
        return jnp.sum(layer.apply(variables | {"params": params}, x) ** 2)

    grad = slope(variables["params"])
    assert grad["gamma"].shape == () and abs(grad["gamma"]) > 0


ERRORS = [
    (LowRank(N, M + 1), r"rank=33 is not within 1 to 32"),
    (LowRank(N, 0), r"rank=0 is not within 1 to 32"),
    (SLTrain(N, M + 1), r"rank=33 is not within 1 to 32"),
    (SLTrain(N, R, delta=1.5), r"delta=1.5 is not within 0 to 1"),
    (SLTrain(N, R, delta=-0.5), r"delta=-0.5 is not within 0 to 1"),
    (LowRankSparse(N, M + 1), r"rank=33 is not within 1 to 32"),
    (LOST(features=N, delta=1.01), r"delta=1.01 is not within 0 to 1"),
    (LOST(features=N, delta=-0.01), r"delta=-0.01 is not within 0 to 1"),
    (LOST(features=N, gamma=1.01), r"gamma=1.01 is not within 0 to 1"),
    (LOST(features=N, gamma=-0.01), r"gamma=-0.01 is not within 0 to 1"),
    (LOST(features=N, channel_groups=0), r"channel_groups=0 must be at least 1"),
    (LOST(features=N, channel_groups=5), r"channel_groups=5 does not divide the 32"),
    (LOST(features=N, channel_groups=16), r"channel_groups=16 does not divide the 8"),
    (
        LOST(features=N, rank=6, channel_groups=4),
        r"channel_groups=4 does not .* rank=6",
    ),
]


@pytest.mark.parametrize("layer, message", ERRORS)
def test_bad_options_name_themselves(layer, message, x):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=message):
        layer.parameter_count(M)


def dot_generals(function, *args):
    """FLOPs of each matrix product in a function, nested ones included."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                (contracting, _), _ = eqn.params["dimension_numbers"]
                inner = np.prod([eqn.invars[0].aval.shape[i] for i in contracting])
                found.append(2 * int(inner) * eqn.outvars[0].aval.size)
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize(
    "layer", [LowRankSparse(4, rank=2, delta=0.5), SLTrain(4, rank=2, delta=0.5)]
)
def test_apply_without_the_channels_is_told_what_to_pass(layer):
    x_BM = jnp.ones((2, 6))
    variables = layer.init(jax.random.key(0), x_BM)
    params = variables["params"]
    with pytest.raises(ValueError, match=r"'channels'.*{\*\*variables, 'params': p"):
        layer.apply({"params": params}, x_BM)
    layer.apply({**variables, "params": params}, x_BM)
