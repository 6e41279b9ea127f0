"""FRUGAL over steps: what its numbers are, when it draws anew, what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import optim
from lostjax.optim.splitting.refresh import Carries, carry_state

SUBSPACES = {
    "svd": optim.gradient_svd(),
    "orthonormal": optim.random_orthonormal(),
}
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def shapes_of(tree):
    return jax.tree.map(lambda x: x.shape, tree)


def test_an_entry_that_is_not_finite_counts_as_zero():
    good = {"w": normal(8, 8).at[2, 3].set(0), "b": normal(4).at[1].set(0)}
    tx = optim.scale_by_frugal(update_gap=2)
    update, state = jax.jit(tx.update), tx.init(good)
    expected = update(good, state)
    for bad in (np.nan, np.inf, -np.inf):
        poisoned = {"w": good["w"].at[2, 3].set(bad), "b": good["b"].at[1].set(bad)}
        updates, after = update(poisoned, state)
        assert after.nonfinite == 2
        got = updates, after._replace(nonfinite=state.nonfinite)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": -0.1}, "density=-0.1: must lie in"),
        ({"density": 1.5}, "density=1.5: must lie in"),
        ({"density": float("nan")}, "density=nan: must lie in"),
        (
            {"density": jnp.float32(0.5)},
            "density=.*0.5.*: must be a Python number.*static",
        ),
        ({"update_gap": 0}, "update_gap=0: must be a number in"),
        ({"update_gap": jnp.int32(0)}, "update_gap=.*0.*: must be a number in"),
        ({"update_gap": float("inf")}, "update_gap=inf: must be a number in"),
        ({"update_gap": float("nan")}, "update_gap=nan: must be a number in"),
        ({"update_gap": 2**31}, "update_gap=2147483648: must be a number in"),
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
    "subspace",
    [
        optim.rows(),
        optim.columns(),
        optim.coordinates(),
        optim.blocks(),
        optim.random_orthonormal(),
    ],
    ids=["rows", "columns", "coordinates", "blocks", "orthonormal"],
)
def test_the_state_full_half_sees_its_part_of_the_parameters(subspace):
    """A trust ratio: |kept part of the parameters| / |kept part of the gradient|."""
    params = {"w": jax.random.normal(jax.random.key(0), (4, 8, 12))}
    grads = jax.tree.map(jnp.sin, params)
    options = {"subspace": subspace, "state_free": optax.set_to_zero()}
    cut = optim.scale_by_frugal(state_full=optax.identity(), **options)
    restrict = jax.jit(lambda x: cut.update(x, cut.init(x))[0]["w"])
    own, other = map(restrict, (grads, params))
    tx = optim.scale_by_frugal(state_full=optax.scale_by_trust_ratio(), **options)
    got, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    ratio = jnp.linalg.norm(other) / jnp.linalg.norm(own)
    assert ratio > 1.05
    np.testing.assert_allclose(got["w"], ratio * own, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="params"):
        tx.update(grads, tx.init(params))


@pytest.mark.parametrize("name", SUBSPACES)
def test_huge_gradients_do_not_overflow(name):
    """Sums over entries of order 1e38 are beyond float32."""
    grads = {"w": 1e38 * normal(12, 8)}
    assert np.all(np.isfinite(grads["w"]))
    tx = optim.scale_by_frugal(subspace=SUBSPACES[name], update_gap=2)
    update, state = jax.jit(tx.update), tx.init(grads)
    small = {"w": grads["w"] * 2.0**-100}
    expected, _ = update(small, tx.init(small))
    # The direction that has no state is the same at every scale.
    free = optim.scale_by_frugal(
        subspace=SUBSPACES[name], state_full=optax.set_to_zero()
    )
    np.testing.assert_array_equal(
        *(jax.jit(free.update)(g, free.init(g))[0]["w"] for g in (grads, small))
    )
    for _ in range(3):
        updates, state = update(grads, state)
        assert np.all(np.isfinite(updates["w"]))
        assert all(np.all(~np.isnan(x)) for x in jax.tree.leaves(state))
    assert np.all(np.isfinite(expected["w"]))


def test_singular_vectors_keep_their_sides_at_a_refresh():
    """A gradient of the other sign has the same vectors, in whatever signs."""
    grads = {"w": normal(12, 8)}
    tx = optim.scale_by_frugal(
        subspace=SUBSPACES["svd"], update_gap=1, on_refresh=optim.KEEP, density=0.5
    )
    update, state = jax.jit(tx.update), tx.init(grads)
    _, first = update(grads, state)
    _, second = update(jax.tree.map(jnp.negative, grads), first)
    np.testing.assert_allclose(second.basis["w"], first.basis["w"], atol=1e-5)


def test_entries_that_are_not_finite_are_counted():
    grads = {"w": normal(8, 8), "b": normal(4)}
    tx = optim.scale_by_frugal()
    update, state = jax.jit(tx.update), tx.init(grads)
    bad = {"w": grads["w"].at[0].set(jnp.nan), "b": grads["b"].at[1].set(jnp.inf)}
    for g, expected in ((grads, 0), (bad, 9), (grads, 9), (bad, 18)):
        _, state = update(g, state)
        assert state.nonfinite == expected
    # Entries whose squares overflow are finite all the same.
    _, state = update({"w": 1e30 * grads["w"], "b": grads["b"]}, state)
    assert state.nonfinite == 18
    full = state._replace(nonfinite=jnp.int32(2**31 - 5))
    assert update(bad, full)[1].nonfinite == 2**31 - 1
