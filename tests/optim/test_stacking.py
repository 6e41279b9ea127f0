"""Layers that lie apart are treated as a scanned model's are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import optim

N_LAYERS = 12  # past ten, where names sort otherwise than numbers


def make_gradients(seed=0):
    rng = np.random.default_rng(seed)
    stacked = {"q": {"kernel": jnp.asarray(rng.normal(size=(N_LAYERS, 4, 6)))}}
    rest = {
        "embed": jnp.asarray(rng.normal(size=(5, 4))),
        "norm": jnp.asarray(rng.normal(size=4)),
    }
    apart = {
        f"layers_{i}": {"q": {"kernel": stacked["q"]["kernel"][i]}}
        for i in range(N_LAYERS)
    }
    return {"layers": stacked, **rest}, {**apart, **rest}


def test_blocks_on_layers_apart_equal_blocks_on_a_scan():
    blocks = optim.blocks(optim.descending_order)
    scanned = optim.scale_by_frugal(subspace=blocks, update_gap=2)
    apart = optim.stack_layers(scanned)
    stacked, single = make_gradients()
    states = jax.jit(scanned.init)(stacked), jax.jit(apart.init)(single)
    update_scanned, update_apart = jax.jit(scanned.update), jax.jit(apart.update)
    for seed in range(3):
        stacked, single = make_gradients(seed)
        expected, scanned_state = update_scanned(stacked, states[0])
        updates, apart_state = update_apart(single, states[1])
        states = scanned_state, apart_state
        assert jax.tree.structure(updates) == jax.tree.structure(single)
        for i in range(N_LAYERS):
            np.testing.assert_allclose(
                updates[f"layers_{i}"]["q"]["kernel"],
                expected["layers"]["q"]["kernel"][i],
                rtol=1e-5,
            )
        np.testing.assert_allclose(updates["embed"], expected["embed"], rtol=1e-5)
    assert optim.state_bytes(states[0]) == optim.state_bytes(states[1])


def test_layers_are_taken_apart_by_one_program():
    """At constant places, each layer's slice would be a program of its own."""
    params = {f"layers_{i}": jnp.ones((16, 16)) for i in range(12)}
    tx = optim.stack_layers(optax.scale_by_adam())
    compiled = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params))
    text = compiled.compile().as_text()
    assert text.count(" dynamic-slice(") >= 12
    assert not re.search(r"f32\[1,16,16\]\S* slice\(", text)


def test_layers_of_odd_values_are_taken_apart():
    values = [[jnp.nan, -1.0], [-jnp.inf, 2.0], [-0.0, -jnp.nan]]
    tree = {f"w_{i}": jnp.array([row]) for i, row in enumerate(values)}
    tx = optim.stack_layers(optax.identity())
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree))
    for name in tree:
        np.testing.assert_array_equal(updates[name], tree[name])


def seen_by(tree, **arguments):
    """Shapes of the tree that the inner transformation sees."""
    state = jax.eval_shape(optim.stack_layers(optax.trace(0.9), **arguments).init, tree)
    return {name: leaf.shape for name, leaf in state.trace.items()}


def test_equal_arrays_are_stacked_under_their_first_name():
    tree = {
        "h": [{"w": jnp.ones((2, 3)), "b": jnp.ones(3)} for _ in range(2)],
        "Dense_0": {"kernel": jnp.ones((2, 4))},
        "Dense_1": {"kernel": jnp.ones((4, 4))},
        "Dense_2": {"kernel": jnp.ones((4, 4))},
        "head": jnp.ones((4, 5)),
    }
    assert seen_by(tree) == {
        "h/0/w": (2, 2, 3),
        "h/0/b": (3,),
        "h/1/b": (3,),
        "Dense_0/kernel": (2, 4),
        "Dense_1/kernel": (2, 4, 4),
        "head": (4, 5),
    }


def test_a_pattern_says_which_number_is_the_layer():
    tree = {
        f"block{i}": {f"layers_{j}": jnp.ones((2, 3)) for j in range(3)}
        for i in range(2)
    }
    assert seen_by(tree) == {f"block0/layers_{j}": (2, 2, 3) for j in range(3)}
    assert seen_by(tree, layer=r"layers_(\d+)") == {
        f"block{i}/layers_0": (3, 2, 3) for i in range(2)
    }


def test_decay_sees_the_parameters():
    _, params = make_gradients()
    tx = optim.stack_layers(optax.add_decayed_weights(0.1))
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    jax.tree.map(
        lambda u, p: np.testing.assert_allclose(u, 1.1 * p, rtol=1e-6), updates, params
    )


@pytest.mark.parametrize("layer", ["layers", r"(layers)_(\d+)"])
def test_a_pattern_has_one_group(layer):
    with pytest.raises(ValueError, match="layer=.*one group"):
        optim.stack_layers(optax.identity(), layer=layer)
