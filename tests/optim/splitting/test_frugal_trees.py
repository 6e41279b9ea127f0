"""FRUGAL on the trees that users have: which leaves are split, along which axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend.core import jaxprs_in_params
from optax.contrib import MuonDimensionNumbers

from lostjax import optim
from lostjax.nn import Transformer

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


class Unscanned(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens)
        for i in range(2):
            y = nn.LayerNorm(name=f"norm_{i}")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name=f"layers_{i}")(y)
        return nn.Dense(11, name="lm_head")(x)


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


@pytest.mark.parametrize(
    ("arguments", "params", "message"),
    [
        ({"subspace": optim.blocks()}, {"up": {"w": jnp.ones((4, 6))}}, "up/w.*layer"),
        (
            {"subspace": optim.blocks(), "density": 0},
            {"up": {"w": jnp.ones((4, 6))}},
            "up/w.*layer",
        ),
        ({}, {"N": {"Ids": jnp.ones((4, 6), int)}}, "params: N/Ids is of type int32"),
        ({}, {"z": jnp.ones(3, jnp.complex64)}, "z is of type complex64"),
        ({}, {"n": 3}, "n is of type int32: .* exclude others with optax.masked"),
        (
            {},
            {"params": {"w": jnp.ones((4, 6))}, "channels": {"k": jnp.arange(2)}},
            r"channels/k is of type int32: .* pass variables\['params'\], and ",
        ),
        ({}, jnp.arange(3), "the array is of type int32"),
        ({"matrices": True}, {"b": jnp.ones(3)}, "b of shape .* has no axes"),
        ({"matrices": {"c": True}}, {"b": jnp.ones(3)}, "matrices: not a prefix"),
        ({"state_free": optax.trace(0.9)}, {"w": jnp.ones((4, 6))}, "state_free"),
    ],
)
def test_trees_that_do_not_fit_are_named(arguments, params, message):
    with pytest.raises(ValueError, match=message):
        optim.scale_by_frugal(**arguments).init(params)


def count_operations(tx, n_leaves):
    """Operations of a compiler's input for a tree of equal matrices, calls inlined."""
    params = {f"layers_{i}": jnp.ones((32, 32)) for i in range(n_leaves)}
    state = jax.eval_shape(tx.init, params)
    jaxpr = jax.make_jaxpr(tx.update)(params, state)

    def count(jaxpr):
        inner = (jaxprs_in_params(eqn.params) for eqn in jaxpr.eqns)
        return sum(sum(map(count, found)) or 1 for found in map(list, inner))

    return count(jaxpr.jaxpr)


@pytest.mark.parametrize("name", ["rows", "columns", "coordinates"])
def test_a_further_leaf_adds_few_operations(name):
    """Its random numbers are those of the others: a draw of its own would be 300."""
    frugal = optim.frugal(subspace=getattr(optim, name)())
    added, adams = (
        count_operations(tx, 6) - count_operations(tx, 5)
        for tx in (frugal, optax.adam(1e-3))
    )
    assert added <= 3.7 * adams
