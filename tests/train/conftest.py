"""Where a step starts."""

import functools

import jax
import optax
import pytest

from lostjax.train.build.model import build_model
from lostjax.train.build.state import init_state
from lostjax.train.devices.mesh import make_mesh


@pytest.fixture(scope="session")
def start():
    """Start a model over 32 tokens with SGD on one device: (model, tx, state)."""

    @functools.cache
    def begin(config, *, rate, seed=0):
        model = build_model(config, vocab_size=32)
        tx = optax.sgd(rate)
        key = jax.random.key(seed)
        return model, tx, init_state(model, tx, mesh=make_mesh("data:1"), key=key)

    return begin
