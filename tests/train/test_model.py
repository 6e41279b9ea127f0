"""Every option of the model reaches the model: each one changes the output."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.train.config import ModelConfig
from lostjax.train.model import build_model

BASE = ModelConfig(
    d_model=16, n_layers=1, n_heads=2, d_hidden=24, rank=4, delta=0.25, remat="none"
)
TOKENS = jnp.arange(8).reshape(1, 8)

CHANGES = {
    "linear": "dense",
    "rank": 5,
    "delta": 0.5,
    "gamma": 0.4,
    "activation": "none",
    "channels": "largest",
    "factors": "scaled_normal",
    "correct_variance": True,
    "channel_groups": 2,
    "keep_swiglu_silu": False,
    "qk_norm": True,
    "dtype": "bfloat16",
    "n_layers": 2,
    "n_heads": 4,
}


def logits(config):
    model = build_model(config, vocab_size=16)
    # Larger than at the start, so that no branch is lost in rounding.
    variables = model.init(jax.random.key(0), TOKENS)
    params = jax.tree.map(lambda x: 4 * x, variables["params"])
    return model.apply({**variables, "params": params}, TOKENS)


@pytest.fixture(scope="module")
def base():
    return logits(BASE)


@pytest.mark.parametrize("field", CHANGES)
def test_an_option_changes_the_output(base, field):
    changed = logits(dataclasses.replace(BASE, **{field: CHANGES[field]}))
    assert not np.allclose(base, changed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("field, value", [("learn_gamma", True), ("remat", "full")])
def test_an_option_that_changes_no_output_at_the_start(base, field, value):
    config = dataclasses.replace(BASE, **{field: value})
    if field == "learn_gamma":
        model = build_model(config, vocab_size=16)
        shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
        q = shapes["params"]["layers"]["attention"]["q"]
        assert set(q) == {"a", "b", "values", "gamma"}
    else:
        np.testing.assert_allclose(logits(config), base, rtol=1e-6)


@pytest.mark.parametrize(
    "linear, names",
    [
        ("dense", {"kernel"}),
        ("low_rank", {"a", "b"}),
        ("cola", {"a", "b"}),
        ("sltrain", {"a", "b", "values"}),
        ("lost", {"a", "b", "values"}),
    ],
)
def test_the_linear_family_is_one_flag(linear, names):
    model = build_model(dataclasses.replace(BASE, linear=linear), vocab_size=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    for room, matrices in {
        "attention": "q k v o", "mlp": "gate up down"
    }.items():  # fmt: skip
        for matrix in matrices.split():
            assert set(shapes["params"]["layers"][room][matrix]) == names


def test_cola_has_an_activation_between_its_factors(base):
    plain = dataclasses.replace(BASE, linear="low_rank", factors="scaled_normal")
    cola = dataclasses.replace(BASE, linear="cola")
    bare = dataclasses.replace(cola, activation="none")
    np.testing.assert_allclose(logits(plain), logits(bare), rtol=1e-5)
    assert not np.allclose(logits(cola), logits(bare), rtol=1e-3)
