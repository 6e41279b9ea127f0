"""Faults put into a run on purpose: at their batches, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.steps.faults import SPIKE, parse_faults, put_faults
from lostjax.steps.gradient import Gradient
from lostjax.steps.state import TrainState

WHOLE = np.ones((1, 1), np.int32)
BATCH = Batch(
    WHOLE, WHOLE, WHOLE.astype(np.float32), WHOLE, WHOLE, WHOLE[0], WHOLE[0]
)  # fmt: skip


def a_gradient(state, batch):
    grads = {"head": {"kernel": jnp.ones(3)}, "embed": jnp.ones(2)}
    return Gradient(grads, {"loss": jnp.float32(2.0)}, jnp.float32(1.0), None, None)


def at_batch(gradient, batch, *, offset=0):
    state = TrainState(
        step=jnp.int32(batch - 1 - offset), offset=jnp.int32(offset), params={},
        channels={}, opt_state=(),
    )  # fmt: skip
    return jax.jit(lambda state: gradient(state, BATCH)[:2])(state)


def test_faults_are_at_their_batches_and_of_their_kind():
    text = "nan@2,inf@3,gradient@4,spike@5,spike@6"
    faulty = put_faults(a_gradient, parse_faults(text))
    for batch in range(1, 8):
        grads, means = at_batch(faulty, batch, offset=batch // 3)
        loss = {2: np.nan, 3: np.inf, 5: 2 + SPIKE, 6: 2 + SPIKE}.get(batch, 2.0)
        embed = {2: np.nan, 3: np.inf}.get(batch, 1.0)
        head = {2: np.nan, 3: np.inf, 4: np.inf}.get(batch, 1.0)
        np.testing.assert_array_equal(means["loss"], loss)
        np.testing.assert_array_equal(grads["embed"], np.full(2, embed))
        np.testing.assert_array_equal(grads["head"]["kernel"], np.full(3, head))


def test_without_faults_a_gradient_is_itself():
    assert put_faults(a_gradient, parse_faults("")) is a_gradient


@pytest.mark.parametrize(
    "text", ["nan", "nan@0", "nan@-1", "nan@x", "boom@3", "nan@3;inf@4", "nan@²", "@3"]
)
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(ConfigError, match="--guard.fault=.*write a kind"):
        parse_faults(text)
