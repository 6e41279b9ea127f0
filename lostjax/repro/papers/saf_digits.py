"""SAF and MESA on handwritten digits, where a past answer is ten numbers.

The claims of `repro.papers.saf` (Du et al., 2022, arXiv:2205.14083) in their own kind
of problem: classes, every example seen epoch after epoch, SGD with momentum. The data
are scikit-learn's 1797 digits of 8 x 8 pixels, of which a few hundred are trained on
and the rest are held out; the model is a perceptron with two hidden layers. Past
answers are kept whole, in a dense memory.

The authors' settings where they fit, settled before anything was measured:

    weight         .3 (SAF), .8 (MESA), of the divergence times temperature^2
    temperature    5
    start          epoch 5, as theirs of 90; lag 3 epochs (SAF)
    decay          .98 (MESA): the average reaches back 50 steps, which are about as
                   many epochs as SAF's lag
    SAM's radius   .05, and smoothing .1: the usual ones

A seed is a split of the data, an initialisation and an order of examples, the same for
every method. A rate is as good as its mean held-out loss over all seeds. Errors are
those at the rate that has the fewest: at last the loss rises by overconfidence, and the
errors do not.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses, metrics, optim
from lostjax.analysis import ascend, ascent_rise, random_rise
from lostjax.data import Samples, Split, epoch_rows, load_digits
from lostjax.nn import MLP
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.papers.saf import ASCENT, RADIUS, RANDOM, RANDOM_RADIUS
from lostjax.repro.tune import tune_apart
from lostjax.steps import fit, map_runs
from lostjax.typing import Array, Float, Key, PyTree

LOSS, ERROR = "held-out loss, mnats", "held-out error, %"
"""Names of measures; the rises are those of `repro.papers.saf`."""

DIRECTIONS = 16
BATCH, START, LAG, DECAY, TEMPERATURE, MOMENTUM = 32, 5, 3, 0.98, 5.0, 0.9
"""Rows a step; epoch from which the past counts, and epochs back; of the average; of
the divergence; of SGD."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, terms besides cross entropy, and size of the model."""

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


def _compare(first: str, second: str, measure: str = LOSS) -> Comparison:
    what = {LOSS: "a lower loss", ERROR: "fewer errors", ASCENT: "a smaller rise"}
    return Comparison(
        first, second, f"{first} has {what[measure]} than {second}", measure
    )


COMPARISONS = (
    _compare("SAF", "SGD"),
    _compare("MESA", "SGD"),
    _compare("SAM", "SGD"),
    _compare("SAF", "SGD", ERROR),
    _compare("MESA", "SGD", ERROR),
    _compare("SAF", "SAM", ERROR),
    _compare("MESA", "SAM", ERROR),
    _compare("SAF", "SGD", ASCENT),
    _compare("MESA", "SGD", ASCENT),
    _compare("SAF", "label smoothing", ERROR),
    _compare("MESA", "label smoothing", ERROR),
    _compare("SAF", "SGD, averaged"),
    _compare("MESA", "SGD, averaged"),
)


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Derive every method from plain SGD."""
    change = partial(dataclasses.replace, scale.config)
    return {
        "SGD": scale.config,
        "SGD, averaged": change(averaged=True),
        "label smoothing": change(smoothing=0.1),
        "SAM": change(sam_radius=0.05),
        "SAF": change(saf=0.3),
        "MESA": change(mesa=0.8),
    }


class State(NamedTuple):
    """State of training."""

    params: PyTree
    opt_state: PyTree
    memory: optim.OutputMemory


class Batch(NamedTuple):
    """Examples, which rows they are, and in which epoch."""

    samples: Samples
    rows_B: jax.Array
    epoch: jax.Array


def classify(params: PyTree, samples: Samples, *, hidden: int) -> Float[Array, "B V"]:
    """Compute the logits of a perceptron with two hidden layers."""
    x_BM = samples.inputs.reshape(len(samples.inputs), -1)
    logits_BV = MLP((hidden, hidden, 10)).apply({"params": params}, x_BM)
    return jnp.asarray(logits_BV)


def make_step(
    tx: optax.GradientTransformation, training: Training
) -> Callable[[State, Batch], tuple[State, None]]:
    """Build a step: losses that look back, and for SAM a second gradient."""
    apply = partial(classify, hidden=training.hidden)

    def loss(params: PyTree, state: State, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits_BV = apply(params, batch.samples)
        labels_B = batch.samples.labels
        values_B = losses.next_token_loss(logits_BV, labels_B)
        if training.smoothing:
            penalty_B = losses.smoothing_penalty(logits_BV, labels_B)
            values_B += training.smoothing * penalty_B
        diverge = partial(losses.trajectory_loss, logits_BV, temperature=TEMPERATURE)
        begun = batch.epoch >= START
        if training.saf:
            past_BV, known_B = optim.recall_outputs(
                state.memory, batch.rows_B, epoch=batch.epoch
            )
            values_B += jnp.where(begun & known_B, training.saf * diverge(past_BV), 0.0)
        if training.mesa:
            past_BV = apply(optim.get_past_params(state.opt_state), batch.samples)
            values_B += jnp.where(begun, training.mesa * diverge(past_BV), 0.0)
        return jnp.mean(values_B), logits_BV

    def step(state: State, batch: Batch) -> tuple[State, None]:
        gradient = jax.grad(loss, has_aux=True)
        grads, logits_BV = gradient(state.params, state, batch)
        if training.sam_radius:
            moved = ascend(state.params, grads, radius=training.sam_radius)
            grads, _ = gradient(moved, state, batch)
        memory = optim.write_outputs(
            state.memory, batch.rows_B, logits_BV, epoch=batch.epoch
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, memory), None

    return step


def train(
    seed: tuple[Split, Key], rate: Float[Array, ""], *, training: Training
) -> PyTree:
    """Train on one split from one key; returns the parameters that are the model."""
    split, key = seed
    key_init, key_order = jax.random.split(key)
    steps_per_epoch = training.rows // BATCH
    n_steps = training.epochs * steps_per_epoch
    schedule = optax.cosine_decay_schedule(rate, n_steps)
    tx = optax.chain(
        optax.sgd(schedule, momentum=MOMENTUM), optim.track_past_params(DECAY)
    )
    params = init_params(key_init, hidden=training.hidden)
    outputs = jax.ShapeDtypeStruct((10,), jnp.float32)
    memory = optim.init_memory(training.rows, outputs, lag=LAG)
    rows_SB = epoch_rows(
        key_order, n_rows=training.rows, batch_size=BATCH, n_epochs=training.epochs
    )

    def batch_at(number: jax.Array) -> Batch:
        rows_B = rows_SB[number]
        samples = jax.tree.map(lambda leaf: leaf[rows_B], split.train)
        return Batch(samples, rows_B, number // steps_per_epoch)

    state: State = fit(
        make_step(tx, training),
        State(params, tx.init(params), memory),
        batch_at=batch_at,
        n_steps=n_steps,
    ).state
    return optim.get_past_params(state.opt_state) if training.averaged else state.params


def init_params(key: Key, *, hidden: int) -> PyTree:
    """Draw the perceptron's kernels by He's rule, with zeros for biases.

    The committed cells started from these numbers, which are not those of `MLP.init`.
    """
    sizes = (64, hidden, hidden, 10)
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        f"layer_{index}": {
            "kernel": jax.random.normal(keys[index], (m, n)) * (2 / m) ** 0.5,
            "bias": jnp.zeros(n),
        }
        for index, (m, n) in enumerate(itertools.pairwise(sizes))
    }


def split_digits(digits: Samples, *, rows: int, seed: int) -> Split:
    """Draw the rows that are trained on; the others are held out."""
    order = np.random.default_rng(seed).permutation(len(digits.labels))
    train, heldout = order[:rows], order[rows:]
    return Split(
        jax.tree.map(lambda leaf: leaf[train], digits),
        jax.tree.map(lambda leaf: leaf[heldout], digits),
    )


def judge_params(
    split: Split, params: PyTree, *, hidden: int
) -> dict[str, Float[Array, ""]]:
    """Measure a model: held-out loss and errors, and both rises of the loss."""
    apply = partial(classify, hidden=hidden)
    logits_BV, labels_B = apply(params, split.heldout), split.heldout.labels

    def loss(params: PyTree) -> jax.Array:
        logits_BV = apply(params, split.train)
        return losses.next_token_loss(logits_BV, split.train.labels).mean()

    random = random_rise(
        loss,
        params,
        key=jax.random.key(0),
        radius=RANDOM_RADIUS,
        n_directions=DIRECTIONS,
    )
    return {
        LOSS: 1000 * losses.next_token_loss(logits_BV, labels_B).mean(),
        ERROR: 100 * metrics.error_rate(logits_BV, labels_B),
        ASCENT: 1000 * ascent_rise(loss, params, radius=RADIUS),
        RANDOM: 1000 * random,
    }


def train_seeds(
    config: Training, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train on every split at once; NaN if a run diverged."""
    rates = jnp.asarray([learning_rate], jnp.float32)
    found = _runs(config)(_seeds(config.rows, tuple(seeds)), rates)
    return {name: list(map(float, values[:, 0])) for name, values in found.items()}


@cache
def _runs(training: Training) -> Callable[[PyTree, PyTree], PyTree]:
    """Build every seed's run and its measures, compiled once for all rates."""

    def run(seed: tuple[Split, Key], rate: jax.Array) -> dict[str, jax.Array]:
        params = train(seed, rate, training=training)
        return judge_params(seed[0], params, hidden=training.hidden)

    return map_runs(run)


@cache
def _seeds(rows: int, seeds: tuple[int, ...]) -> tuple[Split, Key]:
    """Draw a split and a key for each seed, stacked."""
    digits = load_digits()
    splits = [split_digits(digits, rows=rows, seed=seed) for seed in seeds]
    stacked: Split = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
    return stacked, jax.vmap(jax.random.key)(jnp.asarray(seeds))


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config, methods = scale.config, build_methods(scale)
    return (
        f"Every run: a perceptron of 64, {config.hidden}, {config.hidden} and 10 units "
        f"on {config.rows} of scikit-learn's 1797 digits, {config.epochs} epochs of "
        f"SGD with momentum {MOMENTUM:g} and a cosine schedule, {BATCH} rows a step; "
        "all other digits are held out. The divergence has temperature "
        f"{TEMPERATURE:g} and weight {methods['SAF'].saf:g} (SAF, {LAG} epochs back) "
        f"or {methods['MESA'].mesa:g} (MESA, decay {DECAY:g}), from epoch {START} on. "
        f"Rises are of the training loss, at a distance of {RADIUS:g} up the gradient "
        f"and of {RANDOM_RADIUS:g} at random, in thousandths of a nat (mnats)."
    )


RATES = (0.02, 0.04, 0.08)

EXPERIMENT = Experiment(
    paper="SAF and MESA on digits (arXiv:2205.14083)",
    scales={
        "smoke": Scale(
            Training(rows=128, hidden=16, epochs=12), RATES, ("SGD", "SAF", "MESA")
        ),
        "small": Scale(Training(), RATES),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(LOSS, ERROR, ASCENT, RANDOM),
    train=train_seeds,
    tuning=tune_apart(ERROR),
    setting=describe,
    seeds=10,
)
