"""What optax asks of every transformation, asked of ours: one row for each.

The checks are those of optax's own tests (contrib/_common_test.py, sharding_test.py).
A row is a function that makes a whole optimiser, and its hyperparameters; those that
decide shapes are static under `inject_hyperparams`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.optim import track_lagged_params, track_past_params


class Row(NamedTuple):
    """An optimiser under test."""

    make: Callable[..., optax.GradientTransformation]
    hyperparameters: dict[str, Any]
    static: tuple[str, ...] = ()

    def build(self):
        return self.make(**self.hyperparameters)


def sgd_past_params(learning_rate, decay):
    return optax.chain(optax.sgd(learning_rate), track_past_params(decay))


def sgd_lagged_params(learning_rate, lag):
    return optax.chain(optax.sgd(learning_rate), track_lagged_params(lag))


ROWS = {
    "past_params": Row(track_past_params, {"decay": 0.9}),
    "past_params_bfloat16": Row(
        track_past_params, {"decay": 0.9, "dtype": jnp.bfloat16}, ("dtype",)
    ),
    "lagged_params": Row(track_lagged_params, {"lag": 3}),
    "sgd_past_params": Row(sgd_past_params, {"learning_rate": 0.01, "decay": 0.9}),
    "sgd_lagged_params": Row(sgd_lagged_params, {"learning_rate": 0.01, "lag": 3}),
}
CONVERGING = [name for name in ROWS if "learning_rate" in ROWS[name].hyperparameters]
"""Rows that are whole optimisers, with a learning rate."""


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def assert_trees_equal(ours, theirs, **tolerances):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, **tolerances)


def some_params():
    return {"matrix": jnp.full((2, 3), -1.0), "stack": jnp.ones((2, 5, 2))}


def test_unknown_extra_arguments_are_let_through(row):
    tx, params = row.build(), some_params()
    tx.update(params, tx.init(params), params, unexpected_argument=1)


def test_the_second_call_does_not_compile_again(row):
    tx, params = row.build(), some_params()
    update = jax.jit(tx.update)
    state = jax.jit(tx.init)(params)
    for _ in range(3):
        _, state = update(params, state, params)
    assert update._cache_size() == 1


def test_mapping_over_params_finds_the_state_as_it_is(row):
    tx, params = row.build(), some_params()
    state = tx.init(params)
    same = optax.tree.map_params(tx, lambda value: value, state)
    assert_trees_equal(same, state)


@pytest.mark.parametrize("name", CONVERGING)
@pytest.mark.parametrize("goal", [[1.0, -1.0, 1.0], [[3.0, -2.0], [1.0, 4.0]]])
def test_it_converges_on_a_parabola(name, goal):
    tx, goal = ROWS[name].build(), jnp.array(goal)
    gradient = jax.grad(lambda params: jnp.sum((params - goal) ** 2))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradient(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros_like(goal)
    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=2000)
    np.testing.assert_allclose(params, goal, rtol=3e-2, atol=3e-2)


def test_injected_hyperparameters_change_nothing(row):
    params = some_params()
    tx = row.build()
    injected = optax.inject_hyperparams(row.make, row.static)(**row.hyperparameters)
    state, state_injected = jax.jit(tx.init)(params), jax.jit(injected.init)(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(params, state, params)
        ours, state_injected = jax.jit(injected.update)(params, state_injected, params)
    assert_trees_equal(ours, updates, rtol=1e-5)
    assert_trees_equal(state_injected.inner_state, state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_updates_are_of_the_parameters_type(row, dtype):
    tx, params = row.build(), jnp.array([1.0, 2.0], dtype)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert updates.dtype == dtype


def test_steps_that_only_accumulate_do_not_count(row):
    tx, params = row.build(), some_params()
    steps = optax.MultiSteps(tx, every_k_schedule=4)
    state = steps.init(params)
    update = jax.jit(steps.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert_trees_equal(updates, jax.tree.map(jnp.zeros_like, params))
        assert_trees_equal(state.inner_opt_state, tx.init(params))
    _, state = update(params, state, params)
    _, expected = jax.jit(tx.update)(params, tx.init(params), params)
    assert_trees_equal(state.inner_opt_state, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_shapes_and_types_of_the_state_are_stable(row, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        tx, params = row.build(), jnp.array([-1.0, 10.0, 1.0], dtype)
        state = tx.init(params)

        @jax.jit
        def step(flag, params, state):
            updates, state = jax.lax.cond(
                flag,
                lambda: tx.update(params, state, params),
                lambda: (params, state),
            )
            return optax.apply_updates(params, updates), state

        params, state = step(True, params, state)
        params, _ = step(False, params, state)
        assert params.dtype == dtype


def test_init_takes_shapes(row):
    tx = row.build()
    state = tx.init(jax.ShapeDtypeStruct((2, 4, 8), jnp.float32))
    expected = tx.init(jnp.zeros((2, 4, 8)))
    for ours, theirs in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
    ):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_state_keeps_its_sharding_on_a_mesh_of_explicit_axes(row):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, P(None, "x"))
        params = jnp.zeros((2, 8, 4), jnp.float16, out_sharding=place)
        tx = row.build()
        states = [tx.init(params), jax.jit(tx.init)(params)]
        states += [tx.update(params, states[0], params)[1]]
        states += [jax.jit(tx.update)(params, states[0], params)[1]]
        types = [jax.tree.map(jax.typeof, state) for state in states]
        assert all(each == types[0] for each in types)
        assert any("@x" in str(kind) for kind in jax.tree.leaves(types[0]))
