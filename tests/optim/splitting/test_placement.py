"""FRUGAL's state on the devices of its parameters: no device keeps more than its share.

Bytes are counted on the live arrays of every device. The kept part of a weight that is
cut over s devices has at most the density's share of Adam's bytes on each of them.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

from lostjax import optim
from lostjax.optim.splitting.placement import fit_spec

DENSITY = 0.25
SUBSPACES = {
    "rows": optim.rows(),
    "columns": optim.columns(),
    "coordinates": optim.coordinates(),
    "blocks": optim.blocks(),
}
MESHES = [(1, 8), (2, 4), (8, 1)]
SPECS = [
    jax.P("x"),
    jax.P("y"),
    jax.P(None, "x"),
    jax.P(None, "y"),
    jax.P("x", "y"),
    jax.P("y", "x"),
    jax.P(("x", "y")),
    jax.P(None, ("x", "y")),
]
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
# Rows and columns that shards divide, that they do not, and stacks of matrices.
SHAPES = [(512, 16), (1000, 16), (16, 512), (40, 24), (1024, 2736), (8, 24, 16)]


@functools.cache
def make_mesh(sizes, kind):
    return jax.make_mesh(sizes, ("x", "y"), axis_types=(KINDS[kind],) * 2)


def full_spec(shape, spec):
    return jax.P(*[None] * (len(shape) - 2), *spec)


def put(shape, spec, mesh):
    sharding = NamedSharding(mesh, full_spec(shape, spec))
    return {"w": jax.device_put(np.zeros(shape, np.float32), sharding)}


def divides(shape, spec, mesh):
    def size(entry):
        names = (entry,) if isinstance(entry, str) else entry or ()
        return math.prod(mesh.shape[name] for name in names)

    return all(n % size(e) == 0 for n, e in zip(shape[-2:], spec, strict=False))


def bytes_per_device(state):
    """Bytes of the arrays on the fullest device; counts, which have no axis, apart."""
    held = {}
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards if leaf.ndim else ():
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def share(leaf):
    """The density's share of the bytes of Adam's two moments, on each device."""
    entries = math.prod(leaf.sharding.shard_shape(leaf.shape))
    return DENSITY * 2 * entries * leaf.dtype.itemsize


@pytest.mark.parametrize("name", SUBSPACES)
def test_derived_shardings_give_every_device_its_share(name):
    tx = optim.scale_by_frugal(density=DENSITY, subspace=SUBSPACES[name])
    n_tried = 0
    for sizes, shape, spec in itertools.product(MESHES, SHAPES, SPECS):
        mesh = make_mesh(sizes, "auto")
        if not divides(shape, spec, mesh) or (name == "blocks" and len(shape) < 3):
            continue
        sharding = NamedSharding(mesh, full_spec(shape, spec))
        w = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        shapes = jax.eval_shape(
            tx.init, {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
        )
        pairs = zip(
            jax.tree.leaves(shapes.full),
            jax.tree.leaves(optim.state_shardings(tx, {"w": w}).full),
            strict=True,
        )
        held = sum(
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, sharding in pairs
            if leaf.ndim
        )
        assert held <= share(w), (sizes, shape, spec)
        n_tried += 1
    assert n_tried >= 15


LIVE = [
    ((1, 8), (512, 16), jax.P("y")),
    ((2, 4), (1000, 16), jax.P(("x", "y"))),
    ((8, 1), (16, 512), jax.P(None, "x")),
    ((2, 4), (8, 24, 16), jax.P("y", "x")),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SUBSPACES)
def test_an_eager_init_gives_every_device_its_share(name, kind):
    tx = optim.scale_by_frugal(density=DENSITY, subspace=SUBSPACES[name])
    for sizes, shape, spec in LIVE[-1:] if name == "blocks" else LIVE:
        mesh = make_mesh(sizes, kind)
        with jax.set_mesh(mesh):
            params = put(shape, spec, mesh)
            state = tx.init(params)
        held = bytes_per_device(state.full)
        assert held <= share(params["w"]), (sizes, shape, spec)
        # As many pieces as the weight: nothing is on two devices.
        pieces = {str(s.index) for s in state.full[0].mu["w"].addressable_shards}
        assert len(pieces) == len(
            {str(s.index) for s in params["w"].addressable_shards}
        )


@pytest.mark.newest
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["rows", "columns"])
def test_a_compiled_init_and_updates_keep_the_share(name, kind):
    tx = optim.scale_by_frugal(density=DENSITY, subspace=SUBSPACES[name], update_gap=2)
    update = jax.jit(tx.update, donate_argnums=1)
    axis = 0 if name == "rows" else 1
    shape = (512, 16) if name == "rows" else (16, 512)
    spec = jax.P(*[None] * axis, ("x", "y"))
    mesh = make_mesh((2, 4), kind)
    with jax.set_mesh(mesh):
        params = put(shape, spec, mesh)
        most = share(params["w"])
        state = jax.jit(tx.init)(params)
        assert bytes_per_device(state.full) <= most
        eager, made = (s.full[0].mu["w"] for s in (tx.init(params), state))
        assert eager.sharding.is_equivalent_to(made.sharding, 2)
        for _ in range(3):  # over a refresh
            _, state = update(params, state)
            assert bytes_per_device(state.full) <= most


def test_shardings_of_the_helper_fit_a_compiled_init():
    """Also where the compiler would not find them: kept rows that no shard divides."""
    mesh = make_mesh((8, 1), "auto")
    params = put((40, 24), jax.P("x"), mesh) | {"b": jnp.zeros(24)}
    params["b"] = jax.device_put(params["b"], NamedSharding(mesh, jax.P()))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optim.frugal())
    shardings = optim.state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    mu = state[1][0].full[0].mu["w"]
    assert mu.shape == (10, 24) and mu.sharding.spec == jax.P(None, "x")
    assert state[1][0].rest.mu["b"].sharding.is_fully_replicated
    assert tx.init(params)[1][0].full[0].mu["w"].sharding == mu.sharding


def test_the_helper_names_what_has_no_sharding():
    with pytest.raises(ValueError, match=r"params: \['w'\] has no NamedSharding"):
        optim.state_shardings(optim.frugal(), {"w": jnp.zeros((4, 4))})


@pytest.mark.parametrize("name", SUBSPACES)
def test_shards_of_whole_strata_change_no_choice(name):
    """Eight devices keep the entries that one keeps."""
    params = {"w": jax.random.normal(jax.random.key(0), (8, 64, 48))}
    tx = optim.scale_by_frugal(density=DENSITY, subspace=SUBSPACES[name])
    update = jax.jit(tx.update)
    expected, _ = update(params, tx.init(params))
    mesh = make_mesh((2, 4), "explicit")
    with jax.set_mesh(mesh):
        sharded = {"w": jax.device_put(params["w"], jax.P(None, "x", "y"))}
        got, _ = update(sharded, tx.init(sharded))
    # Signs and Adam's first step: equal but for the rounding of a fusion.
    np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (jax.P("x", "y"), (6, 8), jax.P("x", "y")),
        (jax.P("y", "x"), (6, 8), jax.P(None, ("x", "y"))),
        (jax.P(("x", "y")), (6, 8), jax.P("x", "y")),
        (jax.P(("x", "y")), (3, 5), jax.P(None, None)),
        (jax.P(None, "y"), (4, 6), jax.P("y", None)),
        (jax.P("one", "y"), (3, 8), jax.P(None, "y")),
        (jax.P("x"), (3, 3, 8), jax.P(None, None, "x")),
        (jax.P(), (3,), jax.P(None)),
    ],
)
def test_mesh_axes_move_to_axes_that_they_divide(spec, shape, expected):
    assert fit_spec(spec, shape, {"x": 2, "y": 4, "one": 1}) == expected


def test_a_state_with_staggered_clocks_can_be_donated():
    params = {name: jnp.ones((8, 8)) for name in "abc"}
    tx = optim.scale_by_frugal(subspace=optim.gradient_svd(stagger=3))
    state = tx.init(params)
    _, state = jax.jit(tx.update, donate_argnums=1)(params, state)
    assert state.count == 1


@pytest.mark.parametrize("name", [*SUBSPACES, "orthonormal", "svd"])
def test_init_and_update_run_inside_shard_map(name):
    subspaces = SUBSPACES | {
        "orthonormal": optim.random_orthonormal(),
        "svd": optim.gradient_svd(),
    }
    tx = optim.scale_by_frugal(subspace=subspaces[name], update_gap=2)
    grads = {"w": jax.random.normal(jax.random.key(0), (8, 8, 8))}
    mesh = make_mesh((8, 1), "auto")

    def steps(grads):
        def step(state, _):
            updates, state = tx.update(grads, state)
            return state, updates

        return jax.lax.scan(step, tx.init(grads), length=3)[1]

    mapped = jax.shard_map(
        steps, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P(None, "x")
    )
    got = jax.jit(mapped)(grads)
    # Every device has one matrix of the stack, and draws for it as if it were alone.
    one = jax.jit(steps)({"w": grads["w"][:1]})
    np.testing.assert_allclose(got["w"][:, :1], one["w"], rtol=1e-5, atol=1e-6)


def test_a_count_inside_shard_map_is_of_all_devices():
    grads = {"w": jnp.ones((8, 4)).at[0, 0].set(jnp.nan).at[5, 1].set(jnp.inf)}
    tx = optim.scale_by_frugal()
    mapped = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[1].nonfinite,
        mesh=make_mesh((8, 1), "auto"),
        in_specs=jax.P("x"),
        out_specs=jax.P(),
    )
    assert jax.jit(mapped)(grads) == 2
