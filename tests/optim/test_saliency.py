"""Saliency is |sum of gradients|; a mask has exactly the asked number of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax import optim

pytestmark = pytest.mark.newest


def make_saliency():
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.random((8, 6)), jnp.float32),
        "b": jnp.asarray(10 * rng.random(12), jnp.float32),
    }


def ravel(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_saliency_is_the_absolute_value_of_the_summed_gradient():
    """After the sum: two batches that pull in opposite directions cancel."""
    params = {"w": jnp.arange(3.0), "b": jnp.ones((), jnp.bfloat16)}

    def loss(params, batch):
        return jnp.sum(batch * params["w"]) * params["b"].astype(jnp.float32)

    batches = jnp.array([[1.0, -2.0, 5.0], [-1.0, -2.0, 1.0]])
    found = optim.score_saliency(jax.grad(loss), params, batches=iter(batches))
    np.testing.assert_allclose(found["w"], [0, 4, 6])
    assert found["b"] == 8 and found["b"].dtype == jnp.float32
    with pytest.raises(ValueError, match="batches: is empty"):
        optim.score_saliency(jax.grad(loss), params, batches=[])


@pytest.mark.parametrize("fraction", [0.02, 0.29, 0.5, 0.98])
def test_a_mask_has_the_largest_of_all_weights(fraction):
    saliency = make_saliency()
    mask = ravel(optim.saliency_mask(saliency, fraction))
    order = np.argsort(-ravel(saliency), kind="stable")
    expected = np.zeros(60, bool)
    expected[order[: round(fraction * 60)]] = True
    np.testing.assert_array_equal(mask, expected)


def test_weights_are_ranked_within_their_group():
    saliency = make_saliency()
    mask = optim.saliency_mask(saliency, 0.25, scope=str)
    assert mask["a"].sum() == 12 and mask["b"].sum() == 3
    together = optim.saliency_mask(saliency, 0.25, scope=lambda path: "all")
    np.testing.assert_array_equal(
        ravel(together), ravel(optim.saliency_mask(saliency, 0.25))
    )
    assert together["b"].sum() > 3


def test_the_earliest_of_equal_weights_enter():
    mask = optim.saliency_mask({"w": jnp.ones(10).at[7].set(2.0)}, 0.3)
    np.testing.assert_array_equal(np.flatnonzero(mask["w"]), [0, 1, 7])


def test_leaves_of_integers_are_left_out():
    tree = make_saliency() | {"counts": jnp.arange(1000)}
    mask = optim.saliency_mask(tree, 0.5)
    assert mask["counts"] is False
    assert mask["a"].sum() + mask["b"].sum() == 30


@pytest.mark.parametrize(
    "change, fraction, words",
    [
        ({}, 0, "fraction=0: must lie in"),
        ({}, 1, "fraction=1: must lie in"),
        ({}, float("nan"), "fraction=nan: must lie in"),
        ({}, 0.001, "fraction=0.001: selects none of saliency's 60"),
        ({"b": jnp.full(12, jnp.nan)}, 0.5, "saliency, b: holds NaN"),
        ({"a": jnp.zeros(3), "b": jnp.zeros(2)}, 0.5, "saliency: is 0 everywhere"),
        ({"a": jnp.arange(3), "b": jnp.arange(2)}, 0.5, "no leaf of floating-point"),
    ],
)
def test_bad_input_is_named(change, fraction, words):
    with pytest.raises(ValueError, match=words):
        optim.saliency_mask(make_saliency() | change, fraction)


def test_a_group_without_a_gradient_is_named():
    tree = make_saliency() | {"b": jnp.zeros(12)}
    with pytest.raises(ValueError, match="saliency, b: is 0 everywhere"):
        optim.saliency_mask(tree, 0.5, scope=str)


TXS = {
    "momentum and decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
    ),
    "frugal": lambda: optim.frugal(0.1, update_gap=3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", TXS)
def test_other_weights_keep_their_bits_on_many_devices(name):
    """A hundred steps of momentum and decay, of a tree that eight devices share."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("x"))
    rng = np.random.default_rng(1)
    before = rng.normal(size=(16, 8)).astype(np.float32)
    params = {"w": jax.device_put(before, sharding)}
    saliency = jax.tree.map(jnp.square, params)
    mask = optim.saliency_mask(saliency, 0.3)
    assert mask["w"].sharding == sharding
    tx = optax.chain(TXS[name](), optim.mask_updates(mask))

    @jax.jit
    def run(params, state):
        def step(carry, key):
            params, state = carry
            updates, state = tx.update(
                optax.tree.random_like(key, params), state, params
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(
            step, (params, state), jax.random.split(jax.random.key(0), 100)
        )[0]

    after = np.asarray(run(params, tx.init(params))[0]["w"])
    kept = np.asarray(mask["w"])
    bits = after.view(np.uint32) == before.view(np.uint32)
    np.testing.assert_array_equal(bits, ~kept)
