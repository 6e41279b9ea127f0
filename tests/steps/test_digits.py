"""A classifier of digits by SGD, SAM, SAF and MESA: many seeds and rates at once.

What an experiment needs of `data`, `nn`, `losses`, `optim`, `metrics` and `steps`
together, at a size of seconds. Before its first epoch a past does not count, so that
SAF and MESA are SGD up to there, and not afterwards.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import losses, metrics, optim
from lostjax.data import Samples, epoch_rows, load_digits, split_samples
from lostjax.nn import MLP
from lostjax.steps import fit, map_runs

BATCH, ROWS, START, LAG, TEMPERATURE = 32, 128, 3, 2, 5.0
N_STEPS = ROWS // BATCH
"""An epoch's."""
N_SEEDS, N_EPOCHS = 3, 12
RATES = np.array([0.02, 0.08], np.float32)


class Method(NamedTuple):
    """What is added to the cross entropy."""

    saf: float = 0.0
    mesa: float = 0.0
    sam_radius: float = 0.0


class State(NamedTuple):
    """What a step goes on from."""

    params: Any
    opt_state: Any
    memory: optim.OutputMemory


class Batch(NamedTuple):
    """Examples, which rows they are, and in which epoch."""

    samples: Samples
    rows_B: jax.Array
    epoch: jax.Array


MODEL = MLP((32, 32, 10))


def classify(params, samples):
    x_BM = samples.inputs.reshape(len(samples.inputs), -1)
    return MODEL.apply({"params": params}, x_BM)


def make_step(tx, method):
    """Build a step: losses that look back, and for SAM a second gradient."""

    def loss(params, state, batch):
        logits_BV = classify(params, batch.samples)
        values_B = losses.next_token_loss(logits_BV, batch.samples.labels)
        has_begun = batch.epoch >= START

        def term(past_BV, counts, weight):
            gap_B = losses.trajectory_loss(logits_BV, past_BV, temperature=TEMPERATURE)
            return jnp.where(has_begun & counts, weight * gap_B, 0.0)

        if method.saf:
            past_BV, known_B = optim.recall_outputs(
                state.memory, batch.rows_B, epoch=batch.epoch
            )
            values_B += term(past_BV, known_B, method.saf)
        if method.mesa:
            past = optim.get_past_params(state.opt_state)
            values_B += term(classify(past, batch.samples), True, method.mesa)
        return jnp.mean(values_B), logits_BV

    def step(state, batch):
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, logits_BV), grads = gradient(state.params, state, batch)
        if method.sam_radius:
            scale = method.sam_radius / optax.tree.norm(grads)
            moved = optax.tree.add_scale(state.params, scale, grads)
            _, grads = gradient(moved, state, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        memory = optim.write_outputs(
            state.memory, batch.rows_B, logits_BV, epoch=batch.epoch
        )
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, memory), {"loss": value}

    return step


def make_run(method, *, n_epochs=N_EPOCHS):
    """Build a run: from (split, key) and a peak rate to what came of it."""

    def run(seed, rate):
        split, key = seed
        key_init, key_order = jax.random.split(key)
        schedule = optax.cosine_decay_schedule(rate, n_epochs * N_STEPS)
        tx = optax.chain(
            optax.sgd(schedule, momentum=0.9), optim.track_past_params(0.9)
        )
        params = MODEL.init(key_init, jnp.zeros((1, 64)))["params"]
        memory = optim.init_memory(
            ROWS, jax.ShapeDtypeStruct((10,), jnp.float32), lag=LAG
        )
        rows_SB = epoch_rows(
            key_order, n_rows=ROWS, batch_size=BATCH, n_epochs=n_epochs
        )

        def batch_at(number):
            rows_B = rows_SB[number]
            samples = jax.tree.map(lambda leaf: leaf[rows_B], split.train)
            return Batch(samples, rows_B, number // N_STEPS)

        def judge(state):
            logits_BV = classify(state.params, split.heldout)
            return metrics.error_rate(logits_BV, split.heldout.labels)

        fitted = fit(
            make_step(tx, method),
            State(params, tx.init(params), memory),
            batch_at=batch_at,
            n_steps=n_epochs * N_STEPS,
            log_every=N_STEPS,
            measure=judge,
        )
        return fitted.state.params, fitted.metrics["loss"], fitted.measured

    return run


METHODS = {
    "SGD": Method(),
    "SAM": Method(sam_radius=0.05),
    "SAF": Method(saf=0.3),
    "MESA": Method(mesa=0.8),
}


@cache
def make_seeds():
    """Splits and keys of all seeds, stacked."""
    digits = load_digits()
    splits = [
        split_samples(digits, train_rows=ROWS, seed=seed) for seed in range(N_SEEDS)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
    return stacked, jax.vmap(jax.random.key)(jnp.arange(N_SEEDS))


@cache
def train(name):
    """Train a method on every seed at every rate."""
    return map_runs(make_run(METHODS[name]))(make_seeds(), RATES)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    _, losses_SRK, errors_SRK = train(name)
    assert losses_SRK.shape == errors_SRK.shape == (N_SEEDS, len(RATES), N_EPOCHS)
    assert (losses_SRK[..., -1] < losses_SRK[..., 0]).all()
    # The larger rate is the better one for so few steps; chance is .9.
    assert (errors_SRK[:, 1, -1] < 0.35).all()
    assert errors_SRK[:, 1, -1].mean() < errors_SRK[:, 0, -1].mean()


@pytest.mark.parametrize("name", ["SAF", "MESA"])
def test_the_past_counts_from_its_epoch_on_and_not_before(name):
    """Metrics of epoch START - 1 are the last that do not know of the past."""
    _, plain_SRK, _ = train("SGD")
    _, losses_SRK, _ = train(name)
    np.testing.assert_array_equal(losses_SRK[..., :START], plain_SRK[..., :START])
    assert (losses_SRK[..., START] > plain_SRK[..., START]).all()


def test_a_run_by_itself_is_the_one_of_the_map():
    split, keys = make_seeds()
    seed = jax.tree.map(lambda leaf: leaf[1], split), keys[1]
    params, losses_K, errors_K = jax.jit(make_run(METHODS["SAF"]))(seed, RATES[1])
    mapped = jax.tree.map(lambda leaf: leaf[1, 1], train("SAF"))
    np.testing.assert_allclose(losses_K, mapped[1], rtol=1e-4)
    np.testing.assert_allclose(errors_K, mapped[2], atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, mapped[0]
    )
