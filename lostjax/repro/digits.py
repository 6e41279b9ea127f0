"""A perceptron on scikit-learn's digits, trained with SAF, MESA, SAM or without.

SGD with momentum and a cosine schedule. The past is that of `repro.papers.saf_digits`:
answers of some epochs ago in a dense memory, or a moving average of the parameters.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses, optim
from lostjax.analysis import ascend
from lostjax.errors import ConfigError
from lostjax.optim import OutputMemory
from lostjax.typing import Array, Float, Int, PyTree

CLASSES, PIXELS = 10, 64
BATCH, START, LAG, DECAY, TEMPERATURE, MOMENTUM = 32, 5, 3, 0.98, 5.0, 0.9
"""Rows a step; epoch from which the past counts, and epochs back; of the average; of
the divergence; of SGD."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How much is trained, what is added to the cross entropy, what the model is."""

    rows: int = 512
    """Trained on; all others of the 1797 are held out."""
    hidden: int = 128
    epochs: int = 100
    smoothing: float = 0.0
    sam_radius: float = 0.0
    saf: float = 0.0
    mesa: float = 0.0
    averaged: bool = False
    """The moving average of the parameters is the model."""


class Digits(NamedTuple):
    """Images and their classes."""

    x_BM: Float[Array, "B M"]
    """Pixels in [0, 1]."""
    labels_B: Int[Array, "B"]


class Split(NamedTuple):
    """What is trained on, and what is held out."""

    train: Digits
    heldout: Digits


class Carry(NamedTuple):
    """State of training."""

    params: PyTree
    opt_state: PyTree
    memory: OutputMemory


def load_digits() -> Digits:
    """Load scikit-learn's digits.

    Raises:
      ConfigError: if it is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise ConfigError(
            "the digits come with scikit-learn: pip install 'lostjax[digits]'"
        ) from None
    x_BM, labels_B = load(return_X_y=True)
    return Digits(jnp.asarray(x_BM / 16, jnp.float32), jnp.asarray(labels_B, jnp.int32))


def split_digits(digits: Digits, *, rows: int, seed: int) -> Split:
    """Draw the rows that are trained on; the others are held out."""
    order = np.random.default_rng(seed).permutation(len(digits.labels_B))
    train, heldout = order[:rows], order[rows:]
    return Split(
        jax.tree.map(lambda leaf: leaf[train], digits),
        jax.tree.map(lambda leaf: leaf[heldout], digits),
    )


def init_params(key: jax.Array, *, hidden: int) -> PyTree:
    """Draw kernels by He's rule, with zeros for biases."""
    sizes = (PIXELS, hidden, hidden, CLASSES)
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {
            "kernel": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5,
            "bias": jnp.zeros(n),
        }
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def classify(params: PyTree, x_BM: Float[Array, "B M"]) -> Float[Array, "B V"]:
    """Compute the logits of a perceptron with rectifiers."""
    *inner, last = params
    for layer in inner:
        x_BM = jax.nn.relu(x_BM @ layer["kernel"] + layer["bias"])
    logits_BV: Array = x_BM @ last["kernel"] + last["bias"]
    return logits_BV


def train(split: Split, key: jax.Array, rate: Any, *, training: Training) -> PyTree:
    """Train a perceptron.

    Args:
      split: its data.
      key: of its initialisation and the order of rows.
      rate: peak of the learning rate.
      training: sizes, and what is added to the cross entropy.

    Returns:
      The parameters that are the model: the last, or their average.
    """
    n_steps = training.rows // BATCH
    schedule = optax.cosine_decay_schedule(rate, training.epochs * n_steps)
    tx = optax.chain(
        optax.sgd(schedule, momentum=MOMENTUM), optim.track_past_params(DECAY)
    )
    key_init, key_order = jax.random.split(key)
    params = init_params(key_init, hidden=training.hidden)
    outputs = jax.ShapeDtypeStruct((CLASSES,), jnp.float32)
    carry = Carry(
        params, tx.init(params), optim.init_memory(training.rows, outputs, lag=LAG)
    )

    def step(carry: Carry, place: tuple[jax.Array, jax.Array]) -> tuple[Carry, None]:
        rows_B, epoch = place
        batch = jax.tree.map(lambda leaf: leaf[rows_B], split.train)
        loss = partial(_objective, training, carry, batch, rows_B, epoch)
        grads, logits_BV = jax.grad(loss, has_aux=True)(carry.params)
        if training.sam_radius:
            moved = ascend(carry.params, grads, radius=training.sam_radius)
            grads, _ = jax.grad(loss, has_aux=True)(moved)
        memory = optim.write_outputs(carry.memory, rows_B, logits_BV, epoch=epoch)
        updates, opt_state = tx.update(grads, carry.opt_state, carry.params)
        params = optax.apply_updates(carry.params, updates)
        return Carry(params, opt_state, memory), None

    def train_epoch(carry: Carry, epoch: jax.Array) -> tuple[Carry, None]:
        order = jax.random.permutation(
            jax.random.fold_in(key_order, epoch), training.rows
        )
        rows_SB = order[: n_steps * BATCH].reshape(n_steps, BATCH)
        return jax.lax.scan(step, carry, (rows_SB, jnp.full(n_steps, epoch)))

    carry, _ = jax.lax.scan(train_epoch, carry, jnp.arange(training.epochs))
    return optim.get_past_params(carry.opt_state) if training.averaged else carry.params


def _objective(
    training: Training,
    carry: Carry,
    batch: Digits,
    rows_B: jax.Array,
    epoch: jax.Array,
    params: PyTree,
) -> tuple[jax.Array, jax.Array]:
    """Compute the mean loss of a batch, and its logits."""
    logits_BV = classify(params, batch.x_BM)
    values_B = losses.next_token_loss(logits_BV, batch.labels_B)
    if training.smoothing:
        values_B += training.smoothing * losses.smoothing_penalty(
            logits_BV, batch.labels_B
        )
    diverge = partial(losses.trajectory_loss, logits_BV, temperature=TEMPERATURE)
    has_begun = epoch >= START
    if training.saf:
        past_BV, known_B = optim.recall_outputs(carry.memory, rows_B, epoch=epoch)
        values_B += jnp.where(has_begun & known_B, training.saf * diverge(past_BV), 0.0)
    if training.mesa:
        past_BV = classify(optim.get_past_params(carry.opt_state), batch.x_BM)
        values_B += jnp.where(has_begun, training.mesa * diverge(past_BV), 0.0)
    return jnp.mean(values_B), logits_BV
