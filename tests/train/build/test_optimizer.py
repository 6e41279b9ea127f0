"""Optimisers by name: what each flag changes, and which parameters are evaluated."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lostjax.steps.state import TrainState
from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import (
    GALORE_SCALE,
    build_optimizer,
    evaluation_variables,
    find_layer_matrices,
)
from lostjax.train.build.state import abstract_variables
from lostjax.train.config.schema import (
    FrugalConfig,
    LinearName,
    ModelConfig,
    OptimConfig,
    OptimizerName,
    SubspaceName,
)

NAMES = typing.get_args(OptimizerName)
SUBSPACES = typing.get_args(SubspaceName)
STEPS = 12


def make_tree(key):
    """What a scanned LOST model's parameters look like."""
    keys = iter(jax.random.split(jax.random.key(key), 5))
    return {
        "embed": {"embedding": jax.random.normal(next(keys), (16, 8))},
        "layers": {
            "q": {
                "a": jax.random.normal(next(keys), (4, 8, 4)),
                "b": jax.random.normal(next(keys), (4, 4, 12)),
            },
            "norm": {"scale": jax.random.normal(next(keys), (4, 8))},
        },
        "head": {"kernel": jax.random.normal(next(keys), (8, 16))},
    }


PARAMS = make_tree(0)


def optim_config(**fields):
    """Make a configuration; FRUGAL's own fields are told by their names."""
    split = {field.name for field in dataclasses.fields(FrugalConfig)}
    frugal = {name: fields.pop(name) for name in split & set(fields)}
    return OptimConfig(
        **{"learning_rate": 0.05, **fields},
        frugal=FrugalConfig(**{"update_gap": 4, **frugal}),
    )


def run(**fields):
    """Take some steps of a least-squares problem; gives parameters and state."""
    return descend(build_optimizer(optim_config(**fields), steps=STEPS)[0])


def descend(tx):
    target = make_tree(1)

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(jnp.subtract, params, target)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


@pytest.fixture(scope="module")
def frugal():
    return run(name="frugal")


def distance(params):
    return float(optax.tree.norm(optax.tree.sub(params, make_tree(1))))


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_descends(name):
    # GaLore's steps of matrices are a quarter of its rate: give it four times as much.
    rate = 0.05 / (GALORE_SCALE if name == "galore" else 1)
    assert distance(run(name=name, learning_rate=rate)[0]) < 0.9 * distance(PARAMS)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "schedule_free"])
def test_every_optimizer_decays_matrices_and_no_scales(name):
    config = OptimConfig(name=name, learning_rate=0.1, warmup=0.0, weight_decay=0.5)
    tx, _ = build_optimizer(config, steps=10)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = jax.jit(tx.update)(still, tx.init(PARAMS), PARAMS)
    for path in (("embed", "embedding"), ("layers", "q", "a")):
        update, param = updates, PARAMS
        for part in path:
            update, param = update[part], param[part]
        np.testing.assert_allclose(update, -0.1 * 0.5 * param, rtol=1e-5)
    assert not jnp.any(updates["layers"]["norm"]["scale"])


@pytest.mark.parametrize(
    "field, value",
    [
        ("density", 0.5),
        ("density", 0.0),
        ("update_gap", 3),
        ("free_scale", 0.5),
        ("state_free", "sgd"),
        ("state_free", "none"),
        ("on_refresh", "keep"),
        ("on_refresh", "reproject"),
        ("full_state", "/a$"),
        ("clip", 0.0),
        ("b1", 0.5),
        ("eps", 1e-2),
        *[("subspace", name) for name in SUBSPACES if name != "rows"],
    ],
)
def test_each_flag_of_frugal_changes_what_is_learnt(frugal, field, value):
    params, _ = run(name="frugal", **{field: value})
    assert distance(params) != distance(frugal[0])


def test_orders_of_blocks_differ():
    found = {
        run(name="frugal", subspace="blocks", block_order=order)[0]["layers"]["q"][
            "a"
        ].tobytes()
        for order in ("random", "ascending", "descending", "mirror")
    }
    assert len(found) == 4


@pytest.mark.parametrize("name", ["frugal", "galore"])
def test_stagger_sets_groups_off(name):
    together, apart = (
        run(name=name, subspace="svd", stagger=stagger)[0] for stagger in (1, 2)
    )
    assert distance(together) != distance(apart)


def state_elements(state, *names):
    """Count entries of arrays whose path holds all of the names."""
    return sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(state)
        if all(name in jax.tree_util.keystr(path) for name in names)
    )


def test_frugal_keeps_a_quarter_of_the_layers_and_all_of_the_rest(frugal):
    _, state = frugal
    layers = sum(PARAMS["layers"]["q"][name].size for name in "ab")
    assert state_elements(state, "mu", "'q'") == layers // 4
    assert state_elements(state, "mu", "embedding") == 16 * 8
    assert state_elements(state, "mu", "head") == 8 * 16


def test_full_state_names_arrays_that_keep_all():
    _, state = run(name="frugal", full_state="/a$")
    assert state_elements(state, "mu", "'a'") == PARAMS["layers"]["q"]["a"].size
    assert state_elements(state, "mu", "'b'") == PARAMS["layers"]["q"]["b"].size // 4
    with pytest.raises(ValueError, match="full_state='/c"):
        build_optimizer(OptimConfig(name="frugal", full_state="/c$"), steps=2)[0].init(
            PARAMS
        )


def test_schedule_free_is_evaluated_at_its_average():
    params, opt_state = run(name="schedule_free")
    state = TrainState(jnp.int32(STEPS), jnp.int32(0), params, {}, opt_state)
    average = evaluation_variables(state)["params"]
    assert distance(average) != distance(params)
    # y = b1 x + (1 - b1) z, and z is in the state.
    iterate = opt_state[1].z
    again = jax.tree.map(lambda x, z: 0.9 * x + 0.1 * z, average, iterate)
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_others_are_evaluated_as_they_are(frugal):
    params, opt_state = frugal
    state = TrainState(jnp.int32(STEPS), jnp.int32(0), params, {}, opt_state)
    assert evaluation_variables(state)["params"] is params


def test_schedule_free_is_optaxs_where_nothing_is_added():
    params, _ = run(name="schedule_free", warmup=0.0, clip=0.0, weight_decay=0.0)
    config = OptimConfig()
    theirs = optax.contrib.schedule_free_adamw(
        0.05, b1=config.b1, b2=config.b2, eps=config.eps
    )
    expected, _ = descend(theirs)
    for ours, other in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)


def test_schedule_free_has_no_falling_schedule():
    _, schedule = build_optimizer(OptimConfig(name="schedule_free"), steps=100)
    assert float(schedule(99)) == pytest.approx(OptimConfig().learning_rate)
    falling = dataclasses.replace(OptimConfig(), name="adamw")
    assert float(build_optimizer(falling, steps=100)[1](99)) < 1e-3


DECAYED = OptimConfig(learning_rate=1e-2, weight_decay=0.1, warmup=0.25)
DECAY_STEPS = 8


def path(config, *, gradient, multipliers=None):
    """Train one matrix at a fixed gradient; the weights after every step."""
    tx, schedule = build_optimizer(config, steps=DECAY_STEPS, multipliers=multipliers)
    params = {"kernel": jnp.ones((2, 2))}
    state, weights = tx.init(params), []
    for _ in range(DECAY_STEPS):
        grads = {"kernel": jnp.full((2, 2), gradient)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        weights.append(float(params["kernel"][0, 0]))
    return np.array(weights), np.array([float(schedule(t)) for t in range(DECAY_STEPS)])


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.5])
def test_independent_decay_does_not_know_the_learning_rate(rate):
    config = dataclasses.replace(DECAYED, learning_rate=rate, independent_decay=True)
    weights, rates = path(config, gradient=0.0)
    np.testing.assert_allclose(weights, np.cumprod(1 - 0.1 * rates / rate), rtol=1e-5)


def test_usual_decay_is_per_unit_of_learning_rate():
    weights, rates = path(DECAYED, gradient=0.0)
    np.testing.assert_allclose(weights, np.cumprod(1 - 0.1 * rates), rtol=1e-6)


def test_multipliers_change_the_update_and_not_the_decay():
    config = dataclasses.replace(DECAYED, independent_decay=True)
    still, _ = path(config, gradient=0.0, multipliers={"kernel": 0.25})
    np.testing.assert_array_equal(still, path(config, gradient=0.0)[0])
    free = dataclasses.replace(DECAYED, weight_decay=0.0)
    quarter, rates = path(free, gradient=1.0, multipliers={"kernel": 0.25})
    np.testing.assert_allclose(quarter, 1 - np.cumsum(rates) / 4, rtol=1e-5)


def test_updates_vanish_where_epsilon_exceeds_the_gradients():
    free = dataclasses.replace(DECAYED, weight_decay=0.0)
    steps = {}
    for eps in (1e-15, 1e-8, 1e-4):
        weights, _ = path(dataclasses.replace(free, eps=eps), gradient=1e-8)
        steps[eps] = 1 - weights[0]
    rate = steps[1e-15]
    np.testing.assert_allclose(steps[1e-8], rate / 2, rtol=1e-3)
    assert steps[1e-4] < 1e-3 * rate


def test_the_usual_model_has_no_state_for_multipliers():
    with_them, _ = build_optimizer(
        DECAYED, steps=DECAY_STEPS, multipliers={"kernel": 1.0}
    )
    without, _ = build_optimizer(DECAYED, steps=DECAY_STEPS)
    params = {"kernel": jnp.ones((2, 2))}
    states = [jax.tree.leaves(tx.init(params)) for tx in (with_them, without)]
    assert len(states[0]) == len(states[1])


@pytest.mark.parametrize("linear", typing.get_args(LinearName))
@pytest.mark.parametrize("name", ["frugal", "muon"])
def test_every_linear_map_of_the_models_is_cut_along_its_own_axes(linear, name):
    """Layers are stacked: no matrix has them for inputs, as stacked vectors would."""
    model = build_model(
        ModelConfig(
            linear=linear, d_model=16, n_layers=4, n_heads=2, d_hidden=32, rank=4
        ),
        vocab_size=32,
    )
    params = abstract_variables(model)["params"]
    numbers = find_layer_matrices(params, full_state=None)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
        if _at(numbers, path) is not None
    }
    assert found and all(len(shape) == 3 for shape in found.values())
    assert all(path.startswith("layers/") for path in found)
    vectors = [path for path in found if path.endswith(("values", "scale", "gamma"))]
    assert not [path for path in vectors if linear == "sltrain"]
    tx, _ = build_optimizer(optim_config(name=name, subspace="blocks"), steps=STEPS)
    jax.eval_shape(tx.init, params)


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree
