"""What FRUGAL refuses, and the line that would work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import config

from lostjax import optim


@pytest.fixture
def unchecked_types():
    """Switch off the tests' own check of types, which users do not have."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


PARAMS = {"w": jnp.ones((4, 4)), "norm": {"scale": jnp.ones(4)}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subspace": optim.rows}, r"subspace=.*use subspace=lostjax.optim.rows\(\)"),
        ({"subspace": "rows"}, r"subspace='rows'.*use subspace=lostjax.optim.rows\(\)"),
        ({"subspace": "rosw"}, r"subspace='rosw'.*did you mean rows\?"),
        ({"subspace": 3}, "subspace=3: must be a Subspace, such as"),
        ({"on_refresh": "reset"}, "on_refresh='reset'.*use .*lostjax.optim.RESET"),
        ({"on_refresh": "keep"}, "on_refresh='keep'.*use .*lostjax.optim.KEEP"),
        ({"on_refresh": None}, "on_refresh=None: must be one of KEEP, REPROJECT"),
        ({"density": None}, "density=None: must be a Python number"),
        ({"density": "0.25"}, "density='0.25': must be a Python number"),
        ({"density": True}, "density=True: must be a Python number"),
        ({"update_gap": None}, "update_gap=None: must be a number in"),
        ({"free_scale": "x"}, "free_scale='x': must be a finite number"),
        ({"free_scale": np.nan}, "free_scale=nan: must be a finite number"),
        (
            {"free_scale": optax.constant_schedule(1.0)},
            "free_scale.*inject_hyperparams",
        ),
        ({"state_free": optax.scale_by_sign}, r"state_free=.*optax.scale_by_sign\(\)"),
        ({"seed": None}, "seed=None: must be a finite number"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3': must be a finite number"),
        ({"weight_decay": None}, "weight_decay=None: must be a finite number"),
        ({"mask": "norm"}, "mask='norm': must be a function of the parameters"),
        ({"matrices": "w"}, "matrices='w': must be a function of the parameters"),
    ],
)
def test_each_argument_is_checked_at_the_call(arguments, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        optim.frugal(**arguments)


def test_a_numpy_density_is_taken():
    state = optim.frugal(density=np.float32(0.25)).init(PARAMS)
    assert state[0].full[0].mu["w"].shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mask", optim.mask_decayed),
        ("mask", lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        ("matrices", optim.find_matrices),
        ("matrices", lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    ],
)
def test_functions_under_inject_hyperparams_are_not_schedules(name, function):
    def make(*static):
        make = optax.inject_hyperparams(optim.frugal, static_args=static)
        return make(1e-3, weight_decay=0.1, **{name: function})

    with pytest.raises(ValueError, match=rf"static_args=\('density', '{name}'\)"):
        make("density").init(PARAMS)
    tx = make("density", name)
    plain = optim.frugal(1e-3, weight_decay=0.1, **{name: function})
    updates, expected = (
        jax.jit(lambda p, tx=tx: tx.update(p, tx.init(p), p)[0])(PARAMS)
        for tx in (tx, plain)
    )
    # Injected numbers are arrays: Adam's powers of them round otherwise.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, expected
    )


def test_a_leaf_that_is_no_array_names_the_filter():
    model = {"w": jnp.ones((4, 4)), "activation": jax.nn.relu}
    with pytest.raises(ValueError, match=r"activation is .*eqx.filter\(model, eqx.is_"):
        optim.frugal().init(model)


def test_an_array_without_a_name_is_said_to_have_none():
    with pytest.raises(ValueError, match="params is one array, which has no name"):
        optim.find_matrices(jnp.ones((4, 4)), full_state="head")


def test_map_params_takes_masked_nodes_as_leaves():
    """FRUGAL's state has masked nodes, as `optax.masked` has."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    for tx in (
        optim.frugal(),
        optax.masked(optim.frugal(), {"w": True, "norm": False}),
    ):
        named = optax.tree.map_params(
            tx,
            lambda leaf, name: leaf if is_masked(leaf) else name,
            tx.init(PARAMS),
            {"w": "matrix", "norm": {"scale": "vector"}},
            transform_non_params=lambda _: 0,
            is_leaf=is_masked,
        )
        assert "matrix" in jax.tree.leaves(named)
