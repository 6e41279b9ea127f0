"""What optax expects of a transformation, checked for each of ours.

One row a transformation: to add one, add a row. The checks are those that optax runs on
its own, and what users compose: apply_if_finite, masked, partition, more meshes. Where
each question of optax 0.2.8 is asked here, or why it is not:

    contrib/_common_test.py and _src/alias_test.py
      accept_extra_args, no recompilation   test_extra_arguments_pass_..
      optimizers (minima)                   test_minima_are_found
      can_be_wrapped_in_inject_hyperparams  test_hyperparameters_are_injected
      preserve_dtype                        test_types_are_stable_.., test_bfloat16_..
      gradient_accumulation                 test_accumulation_updates_every_fourth_step
      state_shape_dtype_shard_stability     test_types_are_stable_under_cond
      accept_learning_rate_schedule         test_a_constant_schedule_is_a_number
      explicit_dtype                        splitting/test_frugal_bytes.py (mu_dtype)
      complex arrays                        refused: test_complex_arrays_are_refused
    _src/sharding_test.py
      init_with_abstract_input              test_state_is_made_from_shapes
      state_sharding_type_init_match_update test_types_are_stable_on_explicit_meshes
      .._type_preserved_with_jit            test_eager_and_compiled_types_agree
      microbatch_with_explicit_sharding     of optax.microbatching, no transformation
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from lostjax import optim

pytestmark = pytest.mark.newest


class Row(NamedTuple):
    """A transformation under contract."""

    make: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any] = {}
    static: tuple[str, ...] = ()
    """Arguments that `inject_hyperparams` must leave alone."""
    descends: bool = False
    """Whether it takes a learning rate and finds minima by itself."""


def frugal(static: tuple[str, ...] = (), **arguments: Any) -> Row:
    arguments = {"learning_rate": 1e-2, "update_gap": 2} | arguments
    return Row(optim.frugal, arguments, ("density", *static), descends=True)


def frugal_on_stacks(learning_rate, update_gap):
    inner = optim.frugal(learning_rate, update_gap=update_gap, subspace=optim.blocks())
    return optim.stack_layers(inner)


def sgd_past_params(learning_rate, decay):
    return optax.chain(optax.sgd(learning_rate), optim.track_past_params(decay))


def keep_two_of_three(params):
    """Freeze every third weight of each matrix; works on shapes too."""
    return jax.tree.map(
        lambda x: (np.arange(x.size) % 3 > 0).reshape(x.shape) if x.ndim > 2 else True,
        params,
    )


ROWS = {
    "frugal blocks": frugal(subspace=optim.blocks()),
    "frugal rows": frugal(),
    "frugal columns": frugal(subspace=optim.columns()),
    "frugal coordinates": frugal(
        subspace=optim.coordinates(), on_refresh=optim.REPROJECT
    ),
    "frugal svd": frugal(subspace=optim.gradient_svd(stagger=2)),
    "frugal orthonormal": frugal(
        subspace=optim.random_orthonormal(), on_refresh=optim.KEEP
    ),
    "frugal without state": frugal(density=0.0),
    "frugal all state": frugal(density=1.0, mu_dtype="bfloat16"),
    "scale_by_frugal": Row(optim.scale_by_frugal, {"update_gap": 2}, ("density",)),
    "stack_layers": Row(
        frugal_on_stacks, {"learning_rate": 1e-2, "update_gap": 2}, descends=True
    ),
}
ROWS |= {
    "past params": Row(optim.track_past_params, {"decay": 0.9}),
    "past params, bfloat16": Row(
        optim.track_past_params, {"decay": 0.9, "dtype": jnp.bfloat16}, ("dtype",)
    ),
    "lagged params": Row(optim.track_lagged_params, {"lag": 3}),
    "masked params": Row(optim.mask_updates, {"mask": keep_two_of_three}, ("mask",)),
    "sgd, past params": Row(sgd_past_params, {"learning_rate": 1e-2, "decay": 0.9}),
}
every_row = pytest.mark.parametrize("name", ROWS)
descending = pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if row.descends]
)


def make_params(dtype=jnp.float32):
    """A scanned matrix and its norms."""
    rng = np.random.default_rng(0)
    shapes = {"mlp": {"w": (4, 8, 6)}, "norm": {"scale": (4, 8)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def make(name):
    return ROWS[name].make(**ROWS[name].arguments)


class Compiled(NamedTuple):
    init: Any
    update: Any
    traces: list[int]


@functools.cache
def compiled(name):
    """One program a row, for all tests that need nothing else."""
    tx, traces = make(name), []

    @jax.jit
    def update(grads, state, params):
        traces.append(1)
        return tx.update(grads, state, params, something_unexpected=1)

    return Compiled(jax.jit(tx.init), update, traces)


def assert_close(got, expected):
    """Equal but for what two programs round differently; updates are about 1e-2."""
    check = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(check, got, expected)


def types(tree):
    return jax.tree.map(jax.typeof, tree)


@every_row
def test_extra_arguments_pass_and_nothing_compiles_twice(name):
    tx, params = compiled(name), make_params()
    state = first = tx.init(params)
    for _ in range(4):  # over a refresh
        updates, state = tx.update(params, state, params)
    assert len(tx.traces) == 1
    assert types(state) == types(first)
    assert types(updates) == types(params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


@every_row
def test_map_params_finds_what_lies_as_the_parameters(name):
    tx, params = make(name), make_params()
    state = compiled(name).init(params)
    mapped = optax.tree.map_params(tx, lambda x: x, state)
    jax.tree.map(np.testing.assert_array_equal, mapped, state)
    # Moments are found, counts are not.
    rest = optax.tree.map_params(
        tx, lambda x: None, state, transform_non_params=lambda x: x
    )
    assert all(x.ndim == 0 for x in jax.tree.leaves(rest))


@every_row
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_types_are_stable_under_cond(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        params, tx = make_params(dtype), make(name)

        def step(is_on, params, state):
            return jax.lax.cond(
                is_on,
                lambda: tx.update(params, state, params),
                lambda: (params, state),
            )

        state = jax.eval_shape(tx.init, params)
        updates, new = jax.eval_shape(step, True, params, state)
        assert new == state
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@every_row
def test_bfloat16_steps_are_finite(name):
    tx, params = make(name), make_params(jnp.bfloat16)
    updates, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    for leaf in jax.tree.leaves(updates):
        assert leaf.dtype == jnp.bfloat16
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)


@every_row
def test_state_is_made_from_shapes(name):
    params = make_params()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    tx = make(name)
    made = jax.eval_shape(tx.init, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), tx.init(shapes)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made
    )


@every_row
def test_hyperparameters_are_injected(name):
    row, params = ROWS[name], make_params()
    tx = optax.inject_hyperparams(row.make, static_args=row.static)(**row.arguments)
    state = jax.jit(tx.init)(params)
    updates, state = jax.jit(tx.update)(params, state, params)
    expected, expected_state = compiled(name).update(
        params, compiled(name).init(params), params
    )
    assert_close(updates, expected)
    assert_close(state.inner_state, expected_state)


@every_row
def test_accumulation_updates_every_fourth_step(name):
    params = make_params()
    tx = optax.MultiSteps(make(name), every_k_schedule=4)
    update, state = jax.jit(tx.update), jax.jit(tx.init)(params)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert all(np.all(x == 0) for x in jax.tree.leaves(updates))
    updates, _ = update(params, state, params)
    expected, _ = compiled(name).update(params, compiled(name).init(params), params)
    assert_close(updates, expected)


@every_row
def test_apply_if_finite_keeps_the_state(name):
    params = make_params()
    tx = optax.apply_if_finite(make(name), max_consecutive_errors=3)
    state = jax.jit(tx.init)(params)
    bad = jax.tree.map(lambda x: x.at[..., 0].set(jnp.nan), params)
    updates, new = jax.jit(tx.update)(bad, state, params)
    assert all(np.all(x == 0) for x in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, new.inner_state, state.inner_state)


@every_row
def test_masked_and_partition_see_their_leaves_alone(name):
    params = make_params()
    labels = {"mlp": {"w": "ours"}, "norm": {"scale": "sgd"}}
    tx = optax.partition({"ours": make(name), "sgd": optax.identity()}, labels)
    state = tx.init(params)
    updates, new = jax.eval_shape(tx.update, params, state, params)
    assert jax.eval_shape(lambda: state) == new
    ours = jax.tree.leaves(state.inner_states["ours"])
    assert all(x.ndim in (0, 3) for x in ours)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@descending
def test_a_constant_schedule_is_a_number(name):
    row, params = ROWS[name], make_params()
    rate = row.arguments["learning_rate"]
    tx = row.make(**row.arguments | {"learning_rate": optax.constant_schedule(rate)})
    updates, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    expected, _ = compiled(name).update(params, compiled(name).init(params), params)
    assert_close(updates, expected)


TARGETS = {
    "parabola": [1.0, -1.0, 1.0],
    "rosenbrock": [1.0, 1.0],
    "matrices": [[[3.0, -2.0], [1.0, 4.0]], [[1.0, 0.0], [-1.0, 1.0]]],
    "mixed": {"a": [1.0, -1.0, 2.0], "b": [[[1.0, 0.0], [-1.0, 1.0]]] * 3},
}


@descending
def test_minima_are_found(name):
    def is_list(x):
        return isinstance(x, list)

    targets = jax.tree.map(jnp.asarray, TARGETS, is_leaf=is_list)

    def loss(params):
        x, y = params["rosenbrock"]
        errors = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, targets)
        errors["rosenbrock"] = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        return sum(jax.tree.leaves(errors))

    row = ROWS[name]
    tx = row.make(**row.arguments | {"update_gap": 50})

    @jax.jit
    def descend(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=5000)[0][0]

    found = descend(jax.tree.map(jnp.zeros_like, targets))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=3e-2, atol=3e-2),
        found,
        targets,
    )


SPECS = {
    "layers": jax.P("x"),
    "inputs": jax.P(None, "x"),
    "outputs": jax.P(None, None, "x"),
    "both": jax.P(None, "x", "y"),
}


def explicit_mesh(*sizes):
    names = ("x", "y")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Explicit,) * len(sizes))


def layout(tree):
    """Shape, type and explicit sharding of every array."""
    return jax.tree.map(
        lambda x: (x.shape, x.dtype, getattr(x.sharding, "spec", jax.P())), tree
    )


@pytest.mark.parametrize("spec", SPECS)
@every_row
def test_types_are_stable_on_explicit_meshes(name, spec):
    tx = make(name)
    mesh = explicit_mesh(2, 4) if spec == "both" else explicit_mesh(8)
    with jax.set_mesh(mesh):
        params = {
            "w": jnp.zeros((8, 16, 32), out_sharding=SPECS[spec]),
            "v": jnp.zeros((8, 64, 32), out_sharding=SPECS[spec]),
            "scale": jnp.zeros(4),
        }
        state = jax.eval_shape(tx.init, params)
        updates, new = jax.eval_shape(tx.update, params, state, params)
    assert layout(new) == layout(state)
    assert layout(updates) == layout(jax.eval_shape(lambda: params))


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("frugal rows", "past params")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in ROWS
    ],
)
def test_eager_and_compiled_types_agree(name):
    """On a mesh with explicit axes, operation by operation."""
    tx = make(name)
    with jax.set_mesh(explicit_mesh(8)):
        params = jnp.zeros((2, 8, 4), jnp.float16, out_sharding=jax.P(None, "x"))
        state = tx.init(params)
        _, new = tx.update(params, state, params)
        assert types(new) == types(state)
        made, (_, updated) = jax.eval_shape(
            lambda p, s: (tx.init(p), tx.update(p, s, p)), params, state
        )
    assert layout(made) == layout(state)
    assert layout(updated) == layout(state)


@pytest.mark.parametrize("name", [name for name in ROWS if "params" not in name])
def test_complex_arrays_are_refused(name):
    with pytest.raises(ValueError, match="complex64: only real"):
        make(name).init({"w": jnp.ones((2, 2, 2), jnp.complex64)})


@every_row
def test_explicit_meshes_change_no_number(name):
    params = make_params()
    with jax.set_mesh(explicit_mesh(2, 4)):
        sharded = {
            "mlp": {"w": jax.device_put(params["mlp"]["w"], jax.P(None, "y", "x"))},
            "norm": {"scale": jax.device_put(params["norm"]["scale"], jax.P("y"))},
        }
        tx = make(name)
        state = jax.jit(tx.init)(sharded)
        updates, new = jax.jit(tx.update)(sharded, state, sharded)
        assert types(new) == types(state)
        assert types(updates) == types(sharded)
    expected, _ = compiled(name).update(params, compiled(name).init(params), params)
    assert_close(updates, expected)
