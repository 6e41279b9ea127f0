"""Learning-rate multipliers by width, and the transformation that applies them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.optim import scale_by_tensor, width_multipliers


def shapes(width, rank, kept):
    def of(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return {
        "embed": {"embedding": of(100, width)},
        "layers": {
            "norm": {"scale": of(3, width)},
            "up": {
                "a": of(3, width, rank),
                "b": of(3, rank, 4 * width),
                "values": of(3, kept, 4 * width),
                "gamma": of(3),
            },
            "down": {"kernel": of(3, 4 * width, width)},
        },
        "head": {"kernel": of(width, 100)},
    }


def test_matrices_fall_with_their_fan_in_and_nothing_else_does():
    got = width_multipliers(shapes(64, 20, 6), shapes(16, 5, 2))
    assert got == {
        "embed": {"embedding": 1.0},
        "layers": {
            "norm": {"scale": 1.0},
            "up": {"a": 1 / 4, "b": 1 / 4, "values": 1 / 3, "gamma": 1.0},
            "down": {"kernel": 1 / 4},
        },
        "head": {"kernel": 1 / 4},
    }


def test_the_base_model_keeps_its_rates():
    got = width_multipliers(shapes(16, 5, 2), shapes(16, 5, 2))
    assert set(jax.tree.leaves(got)) == {1.0}


def test_another_models_tensors_are_refused():
    base = shapes(16, 5, 2)
    with pytest.raises(ValueError, match="base_params: must have the same tensors"):
        width_multipliers(shapes(64, 20, 6), {"head": base["head"]})
    base["head"]["kernel"] = jax.ShapeDtypeStruct((1, 16, 100), jnp.float32)
    with pytest.raises(ValueError, match=r"base_params: shape \(1, 16, 100\)"):
        width_multipliers(shapes(64, 20, 6), base)


def test_updates_are_those_of_optimisers_with_their_own_rates():
    params = {"slow": jnp.ones((2, 3)), "fast": jnp.ones(4, jnp.bfloat16)}
    grads = {"slow": jnp.arange(6.0).reshape(2, 3), "fast": -jnp.ones(4, jnp.bfloat16)}
    ours = optax.chain(
        optax.scale_by_adam(),
        scale_by_tensor({"slow": 0.25, "fast": 1.0}),
        optax.scale_by_learning_rate(0.1),
    )
    theirs = optax.partition(
        {"slow": optax.adam(0.025), "fast": optax.adam(0.1)},
        {"slow": "slow", "fast": "fast"},
    )
    state, other = ours.init(params), theirs.init(params)
    for _ in range(3):
        updates, state = ours.update(grads, state, params, value=1.0)
        expected, other = theirs.update(grads, other, params)
    for name in params:
        assert updates[name].dtype == params[name].dtype
        np.testing.assert_allclose(
            updates[name].astype("float32"), expected[name].astype("float32"), rtol=1e-5
        )
