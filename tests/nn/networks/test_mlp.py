"""The perceptron: its formula, its counts, its start and its types."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import MLP

M = 6


def make(widths=(8, 5, 3), **more):
    model = MLP(widths, **more)
    return model, model.init(jax.random.key(0), jnp.zeros((1, M)))


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("activation", [nn.relu, nn.silu, jnp.tanh])
@pytest.mark.parametrize("widths", [(8, 5, 3), (4,)], ids=str)
def test_it_is_its_formula(widths, activation):
    model, variables = make(widths, activation=activation)
    x_BM = draw(7, M)
    y = x_BM
    for index in range(len(widths)):
        layer = variables["params"][f"layer_{index}"]
        # Biases start at 0: others show that they are added.
        layer["bias"] = draw(*layer["bias"].shape)
        y = activation(y) if index else y
        y = np.asarray(y) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    np.testing.assert_allclose(model.apply(variables, x_BM), y, rtol=1e-5, atol=1e-5)


def test_any_leading_axes():
    model, variables = make()
    x = draw(2, 3, M)
    rows = model.apply(variables, x.reshape(-1, M))
    np.testing.assert_allclose(
        model.apply(variables, x).reshape(-1, 3), rows, rtol=1e-5
    )
    np.testing.assert_allclose(model.apply(variables, x[0, 0]), rows[0], rtol=1e-5)


@pytest.mark.parametrize("widths", [(8, 5, 3), (4,)], ids=str)
def test_counts_are_those_of_its_parameters(widths):
    model, variables = make(widths)
    leaves = jax.tree.leaves(variables["params"])
    assert model.parameter_count(M) == sum(leaf.size for leaf in leaves)
    kernels = [leaf.size for leaf in leaves if leaf.ndim == 2]
    assert model.flops(M) == 2 * sum(kernels)


def test_it_starts_by_hes_rule():
    model = MLP((400, 300))
    params = model.init(jax.random.key(1), jnp.zeros((1, 200)))["params"]
    for layer, n_inputs in (("layer_0", 200), ("layer_1", 400)):
        spread = params[layer]["kernel"].std()
        np.testing.assert_allclose(spread, (2 / n_inputs) ** 0.5, rtol=0.02)
        assert not params[layer]["bias"].any()


def test_types():
    model, variables = make(dtype=jnp.bfloat16)
    assert model.apply(variables, draw(2, M)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    model, variables = make(param_dtype=jnp.bfloat16)
    types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert types == {jnp.dtype("bfloat16")}
    assert model.apply(variables, draw(2, M)).dtype == jnp.float32


@pytest.mark.parametrize("widths", [(), (3, 0), (-1,)], ids=str)
def test_widths_must_be_positive(widths):
    model = MLP(widths)
    for use in (lambda: model.parameter_count(M), lambda: make(widths)):
        with pytest.raises(ValueError, match=r"widths=.*: must be one or more, each"):
            use()
