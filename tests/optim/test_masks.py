"""Single weights are frozen, whatever the optimiser before the mask does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax import optim

pytestmark = pytest.mark.newest


def make_params():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 8, 4)).astype(np.float32)
    weights[0, 0] = [0.0, -0.0, 1e-30, -1.0]  # bits that a careless sum would change
    return {
        "layers": {"w": jnp.asarray(weights)},
        "scale": jnp.ones(4),
        "head": jnp.asarray(rng.normal(size=(4, 3)).astype(np.float32)),
    }


def make_mask():
    kept = np.random.default_rng(1).random((2, 8, 4)) > 0.4
    kept[0, 0] = False
    return {"layers": {"w": kept}, "scale": True, "head": False}


def train(tx, params, *, steps=100):
    """Descend with gradients that are zero nowhere, as noise would make them."""

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry):
        def step(carry, key):
            params, state = carry
            grads = optax.tree.random_like(key, params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(step, carry, keys)[0]

    return run((jax.tree.map(jnp.copy, params), tx.init(params)))


def bits(x):
    return np.asarray(x).view(np.uint32)


OPTIMISERS = {
    "momentum and decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
    ),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "frugal": lambda: optim.frugal(0.1, update_gap=3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_frozen_weights_keep_their_bits_and_the_others_move(name):
    params, mask = make_params(), make_mask()
    tx = optax.chain(OPTIMISERS[name](), optim.mask_updates(mask))
    after, _ = train(tx, params)
    before, now = (bits(tree["layers"]["w"]) for tree in (params, after))
    kept = mask["layers"]["w"]
    np.testing.assert_array_equal(now[~kept], before[~kept])
    assert np.all(now[kept] != before[kept])
    np.testing.assert_array_equal(bits(after["head"]), bits(params["head"]))
    assert np.all(after["scale"] != params["scale"])


def test_masks_before_the_momentum_would_not_freeze_them():
    """Why the mask is at the end of the chain: decay moves what it does not see."""
    params, mask = make_params(), make_mask()
    decayed = OPTIMISERS["momentum and decay"]()
    after, _ = train(optax.chain(optim.mask_updates(mask), decayed), params)
    assert np.any(after["head"] != params["head"])


def test_trained_weights_move_as_without_a_mask():
    params, mask = make_params(), make_mask()
    adam = optax.adam(0.1)  # entry by entry: no weight depends on another
    alone, _ = train(adam, params, steps=3)
    masked, _ = train(optax.chain(adam, optim.mask_updates(mask)), params, steps=3)
    kept = mask["layers"]["w"]
    np.testing.assert_array_equal(
        masked["layers"]["w"][kept], alone["layers"]["w"][kept]
    )


@pytest.mark.parametrize("name", ["adamw", "frugal"])
def test_sharded_weights_are_frozen_too(name):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params, mask = make_params(), make_mask()
    rows = NamedSharding(mesh, P(None, "x"))
    sharded = jax.device_put(params, NamedSharding(mesh, P()))
    sharded["layers"]["w"] = jax.device_put(params["layers"]["w"], rows)
    tx = optax.chain(OPTIMISERS[name](), optim.mask_updates(mask))
    after, (_, state) = train(tx, sharded, steps=5)
    assert tx.init(sharded)[1].mask["layers"]["w"].sharding == rows
    expected, _ = train(tx, params, steps=5)
    now, kept = after["layers"]["w"], mask["layers"]["w"]
    np.testing.assert_array_equal(bits(now)[~kept], bits(params["layers"]["w"])[~kept])
    np.testing.assert_allclose(now, expected["layers"]["w"], rtol=1e-5, atol=1e-6)


def test_the_mask_survives_donation_and_costs_a_byte_a_weight():
    params = make_params()
    mask = jax.tree.map(jnp.asarray, make_mask())
    tx = optim.mask_updates(mask)
    train(tx, params, steps=1)
    assert not mask["layers"]["w"].is_deleted()
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(tx.init(params))]
    assert sorted(sizes) == [1, 1, 64]


def test_a_mask_may_be_made_from_the_first_parameters():
    params = make_params()
    tx = optax.chain(
        optax.sgd(0.1),
        optim.mask_updates(lambda p: jax.tree.map(lambda x: x != 0, p)),
    )
    after, _ = train(tx, params, steps=3)
    np.testing.assert_array_equal(after["layers"]["w"] == 0, params["layers"]["w"] == 0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"extra": True}, "mask: not a prefix"),
        ({"head": np.ones((3, 4), bool)}, r"mask, head: shape \(3, 4\), must be"),
        ({"head": np.ones((4, 3))}, "mask, head: float64, must be boolean"),
        ({"scale": 1}, "mask, scale: int64, must be boolean"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        optim.mask_updates(make_mask() | change).init(make_params())


def test_nan_updates_do_not_reach_frozen_weights():
    params = make_params()
    tx = optim.mask_updates(make_mask())
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    updates, _ = tx.update(bad, tx.init(params))
    assert np.isnan(updates["layers"]["w"]).sum() == make_mask()["layers"]["w"].sum()
