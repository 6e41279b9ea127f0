"""FRUGAL on the trees, meshes and checkpoints that users have, and its bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from optax.contrib import MuonDimensionNumbers

from lostjax import optim
from lostjax.nn import Transformer
from lostjax.optim.refresh import Carries, carry_state

GIB = 2**30
SUBSPACES = {
    "blocks": optim.blocks(),
    "columns": optim.columns(),
    "rows": optim.rows(),
    "coordinates": optim.coordinates(),
    "svd": optim.gradient_svd(),
    "orthonormal": optim.random_orthonormal(),
}
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


# ---- bytes


def llama(*, d, n_layers, d_hidden, vocab=32000):
    """Shapes of the paper's models: untied, SwiGLU, two norms a layer and one more."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    attention = {name: shape(n_layers, d, d) for name in "qkvo"}
    mlp = {
        "gate": shape(n_layers, d, d_hidden),
        "up": shape(n_layers, d, d_hidden),
        "down": shape(n_layers, d_hidden, d),
    }
    norms = {"norm1": shape(n_layers, d), "norm2": shape(n_layers, d)}
    return {
        "embed": shape(vocab, d),
        "layers": {"attention": attention, "mlp": mlp, **norms},
        "final_norm": shape(d),
        "lm_head": shape(d, vocab),
    }


LLAMAS = {
    "60M": llama(d=512, n_layers=8, d_hidden=1376),
    "130M": llama(d=768, n_layers=12, d_hidden=2048),
    "350M": llama(d=1024, n_layers=24, d_hidden=2736),
    "1B": llama(d=2048, n_layers=24, d_hidden=5461),
}


@pytest.mark.parametrize("subspace", ["columns", "blocks"])
@pytest.mark.parametrize(
    ("name", "adam", "quarter", "none"),
    [
        ("60M", 0.433, 0.291, 0.244),
        ("130M", 0.999, 0.525, 0.366),
        ("350M", 2.742, 1.052, 0.489),
        ("1B", 9.977, 3.227, 0.977),
    ],
)
def test_state_weighs_what_the_paper_says(name, adam, quarter, none, subspace):
    for density, expected in ((1.0, adam), (0.25, quarter), (0.0, none)):
        tx = optim.frugal(density=density, subspace=SUBSPACES[subspace])
        state = jax.eval_shape(tx.init, LLAMAS[name])
        assert round(optim.state_bytes(state) / GIB, 3) == expected


@pytest.mark.parametrize("name", SUBSPACES)
def test_bytes_equal_the_formula(name):
    params = {"w": jnp.ones((4, 16, 12)), "embed": jnp.ones((7, 3)), "b": jnp.ones(5)}
    tx = optim.scale_by_frugal(density=0.25, subspace=SUBSPACES[name])
    state = jax.eval_shape(tx.init, params)
    n_split, n_rest = 4 * 16 * 12, 7 * 3 + 5
    counts = 4 * (1 + 2 + 2)  # updates; a clock's two; each Adam's
    basis = 4 * 4 * 12 * 3 if name == "svd" else 0  # of the shorter side
    expected = 8 * (n_rest + n_split // 4) + counts + basis
    assert optim.state_bytes(state) == expected
    # Nothing else is state: no masks, no indices, no keys.
    assert len(jax.tree.leaves(state)) == 5 + 2 * 3 + (name == "svd")


def test_first_moment_may_be_bfloat16():
    tx = optim.frugal(mu_dtype=jnp.bfloat16)
    state = jax.eval_shape(tx.init, {"w": jnp.ones((8, 8)), "b": jnp.ones(8)})
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state[0].full, "mu"))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state[0].full, "nu"))} == {
        jnp.dtype(jnp.float32)
    }


# ---- trees


class Unscanned(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        for i in range(2):
            y = nn.LayerNorm(name=f"norm_{i}")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name=f"layers_{i}")(y)
        return nn.Dense(11, name="lm_head")(x)


def shapes_of(tree):
    return jax.tree.map(lambda x: x.shape, tree)


def split_names(params, **arguments):
    """Leaves that a tree's FRUGAL splits, by name."""
    found = optim.find_matrices(params, **arguments)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(
            found, is_leaf=lambda x: isinstance(x, MuonDimensionNumbers)
        )
    }


def works_on(params):
    """Run init and an update without computing; give the state's shapes."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optim.frugal())

    def step(params):
        state = tx.init(params)
        updates, new = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state, new

    updates, state, new = jax.eval_shape(step, params)
    assert new == state
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    return state


def test_defaults_work_on_a_scanned_model():
    model = Transformer(vocab_size=11, d_model=8, n_layers=2, n_heads=2, d_hidden=12)
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    )["params"]
    works_on(params)
    kernels = {"q", "k", "v", "o", "gate", "up", "down"}
    split = split_names(params)
    assert {name.split("/")[-2] for name in split} == kernels
    assert len(split) == 7


def test_defaults_work_on_an_unscanned_model():
    params = jax.eval_shape(
        lambda: Unscanned().init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    )["params"]
    works_on(params)
    assert split_names(params) == {
        f"layers_{i}/{name}/kernel"
        for i in range(2)
        for name in ("query", "key", "value", "out")
    }


def test_defaults_work_on_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(11, 8, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
            self.norm = nnx.LayerNorm(8, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    model = Model(nnx.Rngs(0))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optim.frugal(update_gap=1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.sum(m(jnp.arange(3)) ** 3))(model)
        optimizer.update(model, grads)

    step(model, optimizer)
    step(model, optimizer)
    after = nnx.state(model, nnx.Param)
    assert all(
        np.any(a != b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )
    split = {tuple(name.split("/")[:2]) for name in split_names(before)}
    assert split == {("layers", "0"), ("layers", "1")}
    sizes = [x.size for x in jax.tree.leaves(optimizer.opt_state) if x.ndim == 2]
    assert sizes.count(8 * 2) == 4  # two moments of two kernels


@pytest.mark.parametrize(
    "params",
    [
        [np.ones((4, 6), np.float32), np.ones(3, np.float32)],
        (jnp.ones((4, 6)), {"b": None, "c": jnp.ones(())}),
        jnp.ones((4, 6)),
        jnp.ones(4),
        {},
        {"w": optax.MaskedNode(), "v": jnp.ones((4, 6))},
    ],
    ids=["list", "tuple with None", "matrix", "vector", "empty", "masked"],
)
def test_defaults_work_on_any_tree(params):
    works_on(params)


def test_an_empty_tree_is_returned_as_it_is():
    tx = optim.scale_by_frugal()
    updates, _ = tx.update({"a": {}}, tx.init({"a": {}}))
    assert updates == {"a": {}}


def test_axis_names_of_boxes_fit_the_state():
    def box(value, *names):
        return nn.Partitioned(value, names)

    params = {
        "qkv": box(jnp.ones((4, 8, 2, 6)), "layers", "embed", "heads", "head"),
        "w": box(jnp.ones((8, 12)), "embed", "mlp"),
    }
    numbers = {"qkv": MuonDimensionNumbers(1, (2, 3)), "w": True}
    for subspace in SUBSPACES.values():
        if subspace is SUBSPACES["blocks"]:
            continue
        tx = optim.scale_by_frugal(subspace=subspace, matrices=numbers)
        state = jax.eval_shape(tx.init, params)
        boxes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nn.Partitioned))
        boxes = [x for x in boxes if isinstance(x, nn.Partitioned)]
        filled = [x for x in boxes if not isinstance(x.value, optax.MaskedNode)]
        assert len(filled) >= 4
        assert all(len(x.names) == x.value.ndim for x in filled)


# ---- which axes


@pytest.mark.parametrize("name", ["columns", "svd", "orthonormal"])
def test_kernels_of_many_axes_are_their_matrices(name):
    """Heads are outputs in (D, H, K), inputs in (H, K, D); a scan is (M, L, N)."""
    shapes = {"query": (6, 2, 4), "out": (2, 4, 6), "scanned": (6, 3, 8)}
    numbers = {
        "query": MuonDimensionNumbers(0, (1, 2)),
        "out": MuonDimensionNumbers((0, 1), 2),
        "scanned": MuonDimensionNumbers(0, 2),
    }
    grads = {n: normal(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}
    flat = {
        "query": grads["query"].reshape(6, 8),
        "out": grads["out"].reshape(8, 6),
        "scanned": grads["scanned"].swapaxes(0, 1),
    }

    @functools.partial(jax.jit, static_argnums=1)
    def first_update(grads, is_flat):
        tx = optim.scale_by_frugal(
            subspace=SUBSPACES[name], matrices=None if is_flat else numbers
        )
        return tx.update(grads, tx.init(grads))

    updates, state = first_update(grads, False)
    expected, _ = first_update(flat, True)
    assert_close(updates["query"].reshape(6, 8), expected["query"])
    assert_close(updates["out"].reshape(8, 6), expected["out"])
    assert_close(updates["scanned"].swapaxes(0, 1), expected["scanned"])
    assert all(x.ndim == 3 for x in jax.tree.leaves(state.full[0].mu))


def test_labels_are_a_tree_under_map_params():
    """optax calls `init` on a tree without arrays."""
    params = {"w": jnp.ones((8, 8)), "head": jnp.ones((8, 8))}
    tx = optim.scale_by_frugal(matrices={"w": True, "head": None})
    state = jax.eval_shape(tx.init, params)
    assert optax.tree.map_params(tx, lambda x: x, state) == state


# ---- numbers


def test_an_entry_that_is_not_finite_counts_as_zero():
    good = {"w": normal(8, 8).at[2, 3].set(0), "b": normal(4).at[1].set(0)}
    tx = optim.scale_by_frugal(update_gap=2)
    update, state = jax.jit(tx.update), tx.init(good)
    expected = update(good, state)
    for bad in (np.nan, np.inf, -np.inf):
        poisoned = {"w": good["w"].at[2, 3].set(bad), "b": good["b"].at[1].set(bad)}
        got = update(poisoned, state)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("name", ["svd", "orthonormal"])
def test_rounding_is_never_a_full_step(name):
    """All but all of the density: the residual of a square matrix is rounding."""
    grads = {"w": normal(12, 12)}

    @jax.jit
    def first_updates(grads):
        made = []
        for free in (None, optax.set_to_zero()):
            tx = optim.scale_by_frugal(
                density=0.99, subspace=SUBSPACES[name], state_free=free
            )
            made.append(tx.update(grads, tx.init(grads))[0]["w"])
        return made

    signed, silent = first_updates(grads)
    np.testing.assert_array_equal(signed, silent)
    assert np.all(np.abs(signed) > 0)


def test_other_state_full_halves_live_in_the_subspace():
    grads = {"w": normal(16, 8), "b": normal(5)}
    for inner in (
        optax.scale_by_rms(),
        optax.scale_by_lion(),
        optax.trace(0.9),
        optax.scale_by_amsgrad(),
        optax.scale_by_sm3(),  # vectors too
        optax.chain(optax.scale_by_rss(), optax.trace(0.9)),
    ):
        for rule in (optim.RESET, optim.REPROJECT):
            tx = optim.scale_by_frugal(state_full=inner, on_refresh=rule)
            state = jax.eval_shape(tx.init, grads)
            updates, new = jax.eval_shape(tx.update, grads, state)
            assert new == state
            assert shapes_of(updates) == shapes_of(grads)
            assert max(x.size for x in jax.tree.leaves(state)) <= 16 * 2


def test_the_longer_of_two_paths_is_carried():
    """`x/a` ends as `a` does."""

    def adding(n):
        return Carries((2,), lambda m: m + n, lambda v: v - n)

    params = {"a": jnp.zeros(2), "x": {"a": jnp.zeros(2)}, "b": jnp.zeros(3)}
    carries = {"a": adding(1), "x": {"a": adding(2)}, "b": adding(4)}
    moved = carry_state(optax.scale_by_adam().init(params), carries)
    np.testing.assert_array_equal(moved.mu["a"], [1, 1])
    np.testing.assert_array_equal(moved.mu["x"]["a"], [2, 2])
    np.testing.assert_array_equal(moved.nu["x"]["a"], [-2, -2])
    np.testing.assert_array_equal(moved.mu["b"], [0, 0, 0])  # of another shape


def test_decay_and_rate_are_those_of_adamw():
    params, grads = {"b": normal(6), "c": normal(3)}, {"b": normal(6, seed=1)}
    grads["c"] = normal(3, seed=2)
    mask = {"b": True, "c": False}
    ours = optim.frugal(1e-2, weight_decay=0.1, mask=mask)
    theirs = optax.adamw(1e-2, weight_decay=0.1, mask=mask)

    @jax.jit
    def first_updates(grads, params):
        return [tx.update(grads, tx.init(params), params)[0] for tx in (ours, theirs)]

    assert_close(*first_updates(grads, params))


def test_replicas_may_be_mapped():
    grads = {"w": normal(3, 8, 8)}
    tx = optim.scale_by_frugal(matrices=True)
    mapped, _ = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g))))(grads)
    one = jax.jit(lambda g: tx.update(g, tx.init(g))[0])
    for i in range(3):
        assert_close(mapped["w"][i], one({"w": grads["w"][i]})["w"])


# ---- time


def test_the_gap_may_change_at_any_step():
    """Moments start again exactly where a subspace is drawn anew."""
    grads = {"w": jnp.ones((8, 16))}
    tx = optax.inject_hyperparams(optim.scale_by_frugal, static_args="density")(
        update_gap=lambda count: jnp.where(count < 5, 2, 3)
    )
    update, state = jax.jit(tx.update), tx.init(grads)
    ages, refreshes = [], []
    for _ in range(12):
        _, state = update(grads, state)
        inner = state.inner_state
        (clock,), (adam,) = inner.clocks, inner.full
        assert clock.age == adam.count
        ages.append(int(clock.age))
        refreshes.append(int(clock.refresh))
    assert ages == [1, 2, 1, 2, 1, 2, 3, 1, 2, 3, 1, 2]
    assert refreshes == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


def test_accumulation_counts_what_it_emits():
    grads = {"w": jnp.ones((8, 8))}
    tx = optax.MultiSteps(optim.scale_by_frugal(update_gap=2), every_k_schedule=3)
    update, state = jax.jit(tx.update), tx.init(grads)
    for _ in range(7):
        _, state = update(grads, state)
    assert state.inner_opt_state.count == 2
    assert state.inner_opt_state.clocks[0].refresh == 0


# ---- meshes


def auto_mesh(*sizes):
    names = ("x", "y")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def place(tree, mesh):
    """Shard the last axis of all that it divides, by hand."""

    def of(x):
        if x.ndim < 2 or x.shape[-1] % mesh.shape["x"]:
            return NamedSharding(mesh, jax.P())
        return NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "x"))

    return jax.tree.map(of, tree)


@pytest.mark.parametrize("name", ["columns", "svd"])
def test_a_state_moves_to_another_mesh(name, tmp_path):
    """Three updates on one mesh, saved, restored on another: as five on one device."""
    grads = [{"w": normal(4, 8, 32, seed=i), "b": normal(8, seed=i)} for i in range(5)]
    tx = optim.scale_by_frugal(update_gap=2, subspace=SUBSPACES[name])
    update, state = jax.jit(tx.update), jax.jit(tx.init)(grads[0])
    for g in grads:
        expected, state = update(g, state)

    abstract = jax.eval_shape(tx.init, grads[0])
    for mesh, steps in ((auto_mesh(2, 4), grads[:3]), (auto_mesh(8), grads[3:])):
        shardings = place(abstract, mesh)
        on = jax.jit(tx.update, out_shardings=(place(grads[0], mesh), shardings))
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            shardings,
        )
        with ocp.StandardCheckpointer() as checkpointer:
            if steps[0] is grads[0]:
                state = jax.jit(tx.init, out_shardings=shardings)(grads[0])
            else:
                state = checkpointer.restore(tmp_path / "state", target)
            for g in steps:
                updates, state = on(jax.device_put(g, place(g, mesh)), state)
                jax.block_until_ready(state)
            if steps[0] is grads[0]:
                checkpointer.save(tmp_path / "state", state)
    assert_close(updates, expected)
    assert state.full[0].mu["w"].sharding.mesh.shape == {"x": 8}


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": -0.1}, "density=-0.1: must lie in"),
        ({"density": 1.5}, "density=1.5: must lie in"),
        ({"density": float("nan")}, "density=nan: must lie in"),
        ({"density": jnp.float32(0.5)}, "density=0.5: must be a Python number.*static"),
        ({"update_gap": 0}, "update_gap=0: must be at least 1"),
        ({"update_gap": jnp.int32(0)}, "update_gap=0: must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        optim.frugal(**arguments)


def test_a_traced_density_is_named():
    tx = optax.inject_hyperparams(optim.frugal)(1e-3)
    with pytest.raises(ValueError, match="density=.*static_args"):
        jax.jit(tx.init)({"w": jnp.ones((2, 2))})


@pytest.mark.parametrize(
    ("arguments", "params", "message"),
    [
        ({"subspace": optim.blocks()}, {"up": {"w": jnp.ones((4, 6))}}, "up/w.*layer"),
        (
            {"subspace": optim.blocks(), "density": 0},
            {"up": {"w": jnp.ones((4, 6))}},
            "up/w.*layer",
        ),
        ({}, {"n": {"ids": jnp.ones((4, 6), jnp.int32)}}, "n/ids is of type int32"),
        ({}, {"z": jnp.ones(3, jnp.complex64)}, "z is of type complex64"),
        ({}, {"n": 3}, "n is of type int32"),
        ({}, jnp.arange(3), "the array is of type int32"),
        ({"matrices": True}, {"b": jnp.ones(3)}, "b of shape .* has no axes"),
        ({"matrices": {"c": True}}, {"b": jnp.ones(3)}, "matrices: not a prefix"),
        ({"state_free": optax.trace(0.9)}, {"w": jnp.ones((4, 6))}, "state_free"),
    ],
)
def test_trees_that_do_not_fit_are_named(arguments, params, message):
    with pytest.raises(ValueError, match=message):
        optim.scale_by_frugal(**arguments).init(params)
