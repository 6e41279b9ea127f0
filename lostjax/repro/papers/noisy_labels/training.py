"""Pairs of networks on noisy labels: dropout of both kinds, and co-teaching."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import DataError
from lostjax.nn import MLP, NestedDropout, truncation_sweep
from lostjax.repro.papers.noisy_labels.draws import (
    BATCH,
    CLASSES,
    PERIODS,
    Drawn,
    Seed,
    Settings,
    Training,
    draw,
)
from lostjax.steps import fit, init_coteaching, make_coteaching_step, map_runs
from lostjax.typing import Array, Key, PyTree

MOMENTUM, FEATURES, HIDDEN = 0.9, 32, 64
FILTERS = ("prune_by_noise_rate", "prune_by_class", "both")


class Batch(NamedTuple):
    """One network's; a key for dropout and the k to pick at."""

    x_BM: Array
    labels_B: Array
    key: Key
    k: Array


class Ran(NamedTuple):
    """What a run came to; P periods."""

    # Any: NumPy arrays once they are measured.
    validation_P: Any
    """Share of errors."""
    test_PBV: Any
    """Probabilities."""
    fitted_P2BV: Any
    """Probabilities of the rows that are trained on, by network."""


ENCODER = MLP((HIDDEN, FEATURES))


def init_params(key: Key, n_inputs: int) -> PyTree:
    """Draw an encoder, and a classifier without bias."""
    encoder, kernel = jax.random.split(key)
    drawn_DN = jax.random.normal(kernel, (FEATURES, CLASSES)) / FEATURES**0.5
    return {
        "encoder": ENCODER.init(encoder, jnp.zeros((1, n_inputs)))["params"],
        "kernel_DN": drawn_DN,
    }


def encode(params: PyTree, x_BM: Array) -> Array:
    """Compute the features."""
    features_BD = ENCODER.apply({"params": params["encoder"]}, x_BM)
    return jax.nn.relu(jnp.asarray(features_BD))


def answer(params: PyTree, x_BM: Array, k: Array) -> Array:
    """Compute the logits by the first k features."""
    kept_BD = NestedDropout(1.0).apply({}, encode(params, x_BM), k=k)
    logits_BV: Array = jnp.asarray(kept_BD) @ params["kernel_DN"]
    return logits_BV


def descend(params: PyTree, batch: Batch, settings: Settings) -> Array:
    """Compute the losses that are descended, with dropout."""
    keys = jax.random.split(batch.key)
    features_BD = encode(params, batch.x_BM)
    stays_BD = jax.random.bernoulli(keys[0], 1 - settings.dropout, features_BD.shape)
    features_BD = jnp.where(stays_BD, features_BD / (1 - settings.dropout), 0.0)
    nested = NestedDropout(jnp.where(settings.sigma > 0, settings.sigma, 1.0))
    first_BD = jnp.asarray(nested.apply({}, features_BD, rngs={"dropout": keys[1]}))
    features_BD = jnp.where(settings.sigma > 0, first_BD, features_BD)
    logits_BV = features_BD @ params["kernel_DN"]
    q = jnp.where(settings.q > 0, settings.q, 1.0)
    bounded_B = losses.generalized_cross_entropy_loss(logits_BV, batch.labels_B, q=q)
    plain_B = losses.next_token_loss(logits_BV, batch.labels_B)
    return jnp.where(settings.q > 0, bounded_B, plain_B)


def run(seed: Seed, setting: tuple[Array, Settings], *, test_BM: Array) -> Ran:
    """Train a pair of networks: apart for two periods, then on each other's choice."""
    rate, settings = setting
    n_steps = seed.rows_S2B.shape[0]
    n_period = n_steps // PERIODS
    tx = optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(rate, momentum=MOMENTUM),
    )
    step = make_coteaching_step(
        lambda params, batch: descend(params, batch, settings),
        tx,
        keep=optax.linear_schedule(
            1.0,
            1 - settings.dropped * seed.told,
            n_period,
            transition_begin=2 * n_period,
        ),
        score_of=lambda params, batch: losses.next_token_loss(
            answer(params, batch.x_BM, batch.k), batch.labels_B
        ),
    )

    def period(carry: tuple[PyTree, Array], first: Array) -> tuple[PyTree, PyTree]:
        state, k = carry

        def batch_at(number: Array) -> Batch:
            rows_2B = seed.rows_S2B[first + number]
            keys = jax.random.split(jax.random.fold_in(seed.key, first + number))
            x_2BM, labels_2B = seed.inputs_BM[rows_2B], seed.labels_B[rows_2B]
            return Batch(x_2BM, labels_2B, keys, jnp.stack([k, k]))

        state = fit(step, state, batch_at=batch_at, n_steps=n_period).state
        errors, k, p_BV = judge(state.params, seed, settings, test_BM)
        fitted_2BV = jax.vmap(lambda each: answer(each, seed.inputs_BM, k))(
            state.params
        )
        return (state, k), Ran(errors, p_BV, jax.nn.softmax(fitted_2BV))

    keys = jax.random.split(jax.random.fold_in(seed.key, n_steps))
    params = jax.vmap(init_params, in_axes=(0, None))(keys, seed.inputs_BM.shape[-1])
    starts = jnp.arange(0, n_steps, n_period, dtype=jnp.int32)
    begun = init_coteaching(params, tx), jnp.int32(FEATURES)
    ran: Ran = jax.lax.scan(period, begun, starts)[1]
    return ran


def judge(
    params: PyTree, seed: Seed, settings: Settings, test_BM: Array
) -> tuple[Array, Array, Array]:
    """Find errors in validation at the best k, that k, and the test's probabilities."""

    def sweep(each: PyTree) -> Array:
        features_BD = encode(each, seed.validation_inputs_BM)
        return truncation_sweep(features_BD, each["kernel_DN"])

    logits_DBV = jnp.mean(jax.vmap(sweep)(params), axis=0)
    wrong_DB = jnp.argmax(logits_DBV, axis=-1) != seed.validation_labels_B
    errors_D = jnp.mean(wrong_DB, axis=-1)
    best = jnp.where(settings.sigma > 0, jnp.argmin(errors_D) + 1, FEATURES)
    test_BV = jnp.mean(jax.vmap(lambda each: answer(each, test_BM, best))(params), 0)
    return errors_D[best - 1], best.astype(jnp.int32), jax.nn.softmax(test_BV)


def train_choices(training: Training, rate: float, block: int) -> Ran:
    """Train a block with every choice: leaves (seeds x noises, choices, ...)."""
    shared = training.without_method()
    drawn, runs = draw(shared, block), _runs(shared)
    if training.filtered:
        return _train_filtered(drawn, runs, rate, training)
    settings = Settings(*np.asarray(training.choices, np.float32).T)
    rates = np.full(len(training.choices), rate, np.float32)
    ran: Ran = jax.tree.map(np.asarray, runs(stack(drawn.seeds), (rates, settings)))
    return ran


def _train_filtered(
    drawn: Drawn, runs: Callable[[PyTree, PyTree], Ran], rate: float, training: Training
) -> Ran:
    """Drop the labels that networks trained on the other half find wrong."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise DataError(
            "the filter comes with cleanlab: pip install 'lostjax[noisy-labels]'"
        ) from None
    setting = np.full(1, rate, np.float32), Settings(*np.zeros((5, 1), np.float32))
    n_steps = len(drawn.seeds[0].rows_S2B)
    halves = np.split(np.arange(training.rows), 2)
    rows_S2B = np.stack([_rows_of(half, n_steps) for half in halves], axis=1)
    apart = [seed._replace(rows_S2B=rows_S2B) for seed in drawn.seeds]
    fitted = np.asarray(runs(stack(apart), setting).fitted_P2BV)[:, 0, 1]
    found = []
    for filter_by in FILTERS:
        kept = []
        for seed, p_2BV in zip(drawn.seeds, fitted, strict=True):
            # A step exchanges batches: each network was trained on the other's half.
            first_BV, second_BV = np.split(p_2BV, 2, axis=1)
            p_BV = np.concatenate([first_BV[0], second_BV[1]])
            wrong_B = find_label_issues(
                seed.labels_B, p_BV, filter_by=filter_by, n_jobs=1
            )
            rows_SB = _rows_of(np.flatnonzero(~wrong_B), n_steps)
            kept.append(seed._replace(rows_S2B=np.stack([rows_SB, rows_SB], axis=1)))
        found.append(runs(stack(kept), setting))
    ran: Ran = jax.tree.map(lambda *each: np.concatenate(each, axis=1), *found)
    return ran


def _rows_of(rows: np.ndarray, n_steps: int) -> np.ndarray:
    """Draw the rows of all steps from some rows, each once an epoch."""
    epochs = -(-n_steps * BATCH // len(rows))
    generator = np.random.default_rng(0)
    order = np.concatenate([generator.permutation(rows) for _ in range(epochs)])
    return order[: n_steps * BATCH].reshape(n_steps, BATCH).astype(np.int32)


@cache
def _runs(training: Training) -> Callable[[PyTree, PyTree], Ran]:
    """Build every run of every method, compiled once."""
    test_BM = jnp.asarray(draw(training, 0).test_BM)
    return map_runs(lambda seed, setting: run(seed, setting, test_BM=test_BM))


def stack(seeds: Sequence[Seed]) -> Seed:
    """Stack seeds to one tree."""
    stacked: Seed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    return stacked
