"""Bytes, the active share, and a density that changes between two steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import optim


def make_params():
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 8, 6), "embed": (5, 3), "b": (7,)}
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def test_bytes_count_every_array_and_shape():
    state = (jnp.ones((2, 3)), {"m": jnp.ones(4, jnp.bfloat16), "count": jnp.int32(0)})
    assert optim.state_bytes(state) == 24 + 8 + 4
    assert optim.state_bytes(jax.eval_shape(lambda: state)) == 36
    assert optim.state_bytes(()) == 0


@pytest.mark.parametrize(
    ("subspace", "density", "kept"),
    [
        (optim.columns(), 0.5, 4 * 8 * 3),
        (optim.rows(), 0.25, 4 * 2 * 6),
        (optim.blocks(), 0.25, 8 * 6),
        (optim.gradient_svd(), 0.5, 4 * 8 * 3),
        (optim.gradient_svd(side=optim.longer_side), 0.5, 4 * 3 * 6),
        (None, 0, 0),
        (None, 1, 4 * 8 * 6),
    ],
)
def test_active_fraction_counts_moments(subspace, density, kept):
    params = make_params()
    arguments = {"density": density, "subspace": subspace}
    share = optim.active_fraction(params, **arguments)
    assert share == (kept + 15 + 7) / (4 * 8 * 6 + 15 + 7)
    # It is the size of a first moment.
    state = jax.eval_shape(optim.scale_by_frugal(**arguments).init, params)
    adams = [*state.full, state.rest]
    n_moments = sum(x.size for adam in adams for x in jax.tree.leaves(adam.mu))
    assert n_moments == kept + 15 + 7


def test_active_fraction_of_nothing_is_zero():
    assert optim.active_fraction({}) == 0


@functools.cache
def make(density, **arguments):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optim.frugal(1e-2, density=density, update_gap=5, **arguments),
    )


@functools.cache
def compiled(tx):
    return jax.jit(tx.update)


def run(tx, state, grads, steps):
    update = compiled(tx)
    for _ in range(steps):
        updates, state = update(grads, state, grads)
    return updates, state


def frugal_state(state):
    return state[1][0]


@pytest.mark.parametrize(("old", "new"), [(0.5, 0.25), (0.25, 0), (0, 0.5)])
def test_a_resized_state_goes_on_as_at_a_refresh(old, new):
    params, tx = make_params(), make(new)
    _, state = run(make(old), jax.jit(make(old).init)(params), params, 3)
    resized = optim.resize_density(state, params, tx=tx)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), resized) == jax.tree.map(
        lambda x: (x.shape, x.dtype), jax.eval_shape(tx.init, params)
    )
    before, after = frugal_state(state), frugal_state(resized)
    jax.tree.map(np.testing.assert_array_equal, after.rest, before.rest)
    assert after.count == 3
    updates, state = run(tx, resized, params, 1)
    for clock, inner in zip(
        frugal_state(state).clocks, frugal_state(state).full, strict=True
    ):
        assert clock.age == 1 and clock.refresh == 1 and inner.count == 1
    # The first step in a new subspace is a sign step, up to Adam's epsilon.
    np.testing.assert_allclose(updates["w"], -1e-2 * np.sign(params["w"]), rtol=1e-4)
    _, state = run(tx, state, params, 4)
    assert [int(clock.age) for clock in frugal_state(state).clocks] in ([5], [])


def test_a_basis_is_drawn_at_once():
    params = make_params()
    tx = make(0.5, subspace=optim.gradient_svd(stagger=2), on_refresh=optim.KEEP)
    smaller = make(0.25, subspace=optim.gradient_svd(stagger=2), on_refresh=optim.KEEP)
    _, state = run(tx, jax.jit(tx.init)(params), params, 3)
    _, state = run(smaller, optim.resize_density(state, params, tx=smaller), params, 1)
    basis = frugal_state(state).basis["w"]
    gram = basis @ np.matrix_transpose(basis)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-5)


def test_what_is_no_such_state_is_refused():
    params = make_params()
    with pytest.raises(ValueError, match="state: contains no FrugalState"):
        optim.resize_density(optax.adam(1.0).init(params), params, tx=make(0.5))
    state = make(0.5).init(params)
    with pytest.raises(ValueError, match="tx: its state does not match"):
        optim.resize_density(state, params, tx=optim.frugal(density=0.25))
    with pytest.raises(ValueError, match="tx: .*different arrays are split"):
        optim.resize_density(
            state,
            params,
            tx=make(0.25, matrices=lambda p: jax.tree.map(lambda _: False, p)),
        )


def test_density_falls_on_a_line():
    densities = [optim.falling_density(t, steps=100) for t in (0, 50, 100, 200)]
    np.testing.assert_allclose(densities, [0.25, 0.15, 0.05, 0.05])


def test_gap_grows_where_the_loss_has_settled():
    assert optim.grown_gap(100, loss_change=-0.1) == 100
    gaps = [100]
    for _ in range(7):
        gaps.append(optim.grown_gap(gaps[-1], loss_change=0.004))
    assert gaps == [100, 150, 225, 337, 505, 757, 1000, 1000]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.active_fraction({}, density=2), "density=2"),
        (lambda: optim.falling_density(0, steps=0), "steps=0"),
        (lambda: optim.falling_density(0, steps=1, end=0.5), "end=0.5"),
        (lambda: optim.grown_gap(0, loss_change=0.1), "gap=0"),
        (lambda: optim.grown_gap(1001, loss_change=0.1), "gap=1001"),
        (lambda: optim.grown_gap(1, loss_change=0.1, factor=0.5), "factor=0.5"),
    ],
)
def test_numbers_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
