"""SAM and label smoothing in the step, against optax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import normalize, sam

from lostjax.data import Batch
from lostjax.losses import next_token_loss
from lostjax.steps.gradient import make_gradient
from lostjax.steps.step import make_train_step
from lostjax.train.build.model import build_model
from lostjax.train.build.objectives.terms import build_terms
from lostjax.train.build.objectives.trajectory import Trajectory
from lostjax.train.build.state import init_state
from lostjax.train.config.schema import ModelConfig, ObjectiveConfig
from lostjax.train.devices.mesh import make_mesh

MODEL = ModelConfig(d_model=16, n_layers=1, n_heads=2, d_hidden=24, linear="dense")
RADIUS, SHARE, STEPS = 0.3, 0.2, 3
LENGTHS = np.array([16, 1, 9, 2, 16, 3, 5, 0])


def make_batch(seed):
    """Rows of very different numbers of tokens."""
    tokens_BT = jax.random.randint(jax.random.key(seed), (8, 17), 0, 32)
    ones_BT = jnp.ones((8, 16), jnp.int32)
    return Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=jnp.asarray(np.arange(16) < LENGTHS[:, None], jnp.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1) - 1,
        example_B=jnp.arange(8),
        epoch_B=jnp.zeros(8, jnp.int32),
    )


@pytest.fixture(scope="module")
def start():
    model = build_model(MODEL, vocab_size=32)
    tx = optax.adam(1e-2)
    state = init_state(model, tx, mesh=make_mesh("data:1"), key=jax.random.key(0))
    return model, tx, state


@functools.cache
def batches():
    return [make_batch(number) for number in range(STEPS)]


def train(start, *, objective, accumulate=1):
    """Give the state after some steps, and the metrics of the first."""
    model, tx, state = start
    step = jax.jit(
        make_train_step(
            make_gradient(
                model,
                accumulate=accumulate,
                terms=build_terms(objective, Trajectory(), model=model),
                sam_radius=objective.sam_radius,
            ),
            tx,
        )
    )
    metrics = []
    for batch in batches():
        state, measured = step(state, batch)
        metrics.append(measured)
    return state, metrics[0]


@pytest.fixture(scope="module")
def oracle(start):
    """Train with optax, once for each share and radius."""
    return functools.cache(functools.partial(train_by_optax, start))


def train_by_optax(start, *, share=0.0, radius=0.0):
    """Do the same with optax's smoothed labels and its SAM."""
    model, tx, state = start

    def loss(params, batch):
        variables = {"params": params, "channels": state.channels}
        labels = optax.smooth_labels(jax.nn.one_hot(batch.targets_BT, 32), share)
        values_BT = optax.losses.softmax_cross_entropy(
            model.apply(variables, batch.tokens_BT), labels
        )
        return (values_BT * batch.weights_BT).sum() / batch.weights_BT.sum()

    gradient = jax.grad(loss)
    if radius:
        up = optax.chain(normalize(), optax.sgd(radius))
        tx = sam(tx, up, sync_period=2, opaque_mode=True)

    @jax.jit
    def step(params, opt_state, batch):
        extra = {"grad_fn": lambda p, _: gradient(p, batch)} if radius else {}
        updates, opt_state = tx.update(
            gradient(params, batch), opt_state, params, **extra
        )
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = state.params, jax.jit(tx.init)(state.params)
    for batch in batches():
        params, opt_state = step(params, opt_state, batch)
    return params


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_sam_is_that_of_optax_whatever_the_micro_batches(start, oracle, accumulate):
    objective = ObjectiveConfig(sam_radius=RADIUS)
    state, _ = train(start, objective=objective, accumulate=accumulate)
    assert_close(state.params, oracle(radius=RADIUS))


def test_label_smoothing_is_that_of_optax(start, oracle):
    state, _ = train(start, objective=ObjectiveConfig(label_smoothing=SHARE))
    assert_close(state.params, oracle(share=SHARE))


def test_both_together_report_the_plain_loss_where_the_parameters_are(start, oracle):
    objective = ObjectiveConfig(label_smoothing=SHARE, sam_radius=RADIUS)
    state, metrics = train(start, objective=objective)
    assert_close(state.params, oracle(share=SHARE, radius=RADIUS))
    model, _, before = start
    batch = batches()[0]
    variables = {"params": before.params, "channels": before.channels}

    @jax.jit
    def loss_of(variables, batch):
        logits_BTV = model.apply(variables, batch.tokens_BT)
        return next_token_loss(logits_BTV, batch.targets_BT)

    values_BT = loss_of(variables, batch)
    expected = (values_BT * batch.weights_BT).sum() / batch.weights_BT.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_sam_stands_still_where_the_gradient_is_zero(start):
    model, tx, state = start
    batch = batches()[0]
    batch = batch._replace(weights_BT=jnp.zeros_like(batch.weights_BT))
    step = make_train_step(make_gradient(model, sam_radius=RADIUS), tx)
    after, _ = jax.jit(step)(state, batch)
    assert_close(after.params, state.params)
