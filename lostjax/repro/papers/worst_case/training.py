"""A perceptron that is trained on attacked images, and attacks that measure it."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax import losses
from lostjax.data import epoch_rows
from lostjax.nn import MLP
from lostjax.repro.papers.worst_case.draws import (
    BATCH,
    CLASSES,
    RADIUS,
    Seed,
    Settings,
    Training,
)
from lostjax.steps import (
    AdversarialState,
    AttackedBatch,
    Barrier,
    Step,
    ValueOf,
    Weigh,
    Weighed,
    barrier_ascent,
    fit,
    init_adversarial,
    make_adversarial_step,
    map_runs,
    max_ball,
    projected_ascent,
    respond_at,
    square_attack,
    weigh_hard,
)
from lostjax.typing import Array, Key, PyTree

WIDTHS = (64, 32, CLASSES)
MOMENTUM = 0.9
NORM = 5.0
"""To which gradients are clipped."""


class Targets(NamedTuple):
    """Classes, and what an example of them counts."""

    labels_B: Array
    weights_B: Array


class Trained(NamedTuple):
    """Parameters, and their validation errors by class."""

    params: PyTree
    errors_V: Array


MODEL = MLP(WIDTHS)


def train(seed: Seed, settings: Settings, *, training: Training) -> Trained:
    """Train on one draw, and attack its validation images."""
    keys = jax.random.split(seed.key, 4)
    n_epoch = training.rows // BATCH
    shape = optax.cosine_decay_schedule(1.0, training.epochs * n_epoch)
    tx = optax.chain(
        # One batch of heavy examples must not throw a run off.
        optax.clip_by_global_norm(NORM),
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(lambda step: settings.learning_rate * shape(step), MOMENTUM),
    )
    params = MODEL.init(keys[0], seed.inputs_BM[:1])["params"]
    weights_V = seed.counts_V**-settings.power
    weights_B = weights_V[seed.labels_B]
    weights_B = weights_B / jnp.mean(weights_B)
    rows_SB = epoch_rows(
        keys[1], n_rows=training.rows, batch_size=BATCH, n_epochs=training.epochs
    )

    def batch_at(number: Array) -> AttackedBatch:
        rows_B = rows_SB[number]
        return AttackedBatch(
            seed.inputs_BM[rows_B],
            Targets(seed.labels_B[rows_B], weights_B[rows_B]),
            jax.random.fold_in(keys[2], number),
        )

    state: AdversarialState = fit(
        make_step(training, tx, settings),
        init_adversarial(params, tx),
        batch_at=batch_at,
        n_steps=training.epochs * n_epoch,
        log_every=n_epoch,
    ).state
    wrong_B = attack_by_gradient(
        state.params,
        seed.validation_BM,
        seed.validation_labels_B,
        key=keys[3],
        n_steps=10,
        restarts=1,
    )
    return Trained(state.params, errors_by_class(wrong_B, seed.validation_labels_B))


def make_step(
    training: Training, tx: optax.GradientTransformation, settings: Settings
) -> Step:
    """Build a method's step."""

    def cross_entropy(params: PyTree, x_BM: Array, batch: AttackedBatch) -> Array:
        values_B = losses.next_token_loss(
            classify(params, x_BM), batch.targets.labels_B
        )
        return values_B * jnp.asarray(batch.targets.weights_B)

    def trades(params: PyTree, x_BM: Array, batch: AttackedBatch) -> Array:
        clean_B = cross_entropy(params, batch.inputs, batch)
        return clean_B + settings.beta * divergence(params, x_BM, batch)

    barrier = Barrier(RADIUS, settings.barrier)

    def project(value_of: ValueOf, x_BM: Array, key: Key) -> Array:
        return projected_ascent(
            value_of,
            x_BM,
            ball=max_ball(RADIUS),
            step_size=RADIUS / 2,
            n_steps=5,
            key=key,
        )

    def keep_inside(value_of: ValueOf, x_BM: Array, key: Key) -> Array:
        return barrier_ascent(value_of, x_BM, barrier=barrier, n_steps=5)

    n_steps = training.epochs * (training.rows // BATCH)
    weigh = weigh_hard(
        temperature=jnp.where(settings.temperature > 0, settings.temperature, jnp.inf),
        new_share=settings.new_share,
        warm_up=n_steps // 3,
    )
    return make_adversarial_step(
        trades if training.trades else cross_entropy,
        tx,
        attack=keep_inside if training.barrier else project,
        ascended_of=divergence if training.trades else None,
        weigh=_shuffle(weigh) if training.shuffled else weigh,
        respond=respond_at(barrier) if training.barrier else None,
    )


def _shuffle(weigh: Weigh) -> Weigh:
    """Give weights to other examples of the batch."""

    def shuffled(losses_B: Array, state: AdversarialState) -> Weighed:
        found = weigh(losses_B, state)
        key = jax.random.fold_in(jax.random.key(0), state.step)
        return found._replace(weights_B=jax.random.permutation(key, found.weights_B))

    return shuffled


def classify(params: PyTree, x_BM: Array) -> Array:
    """Compute the logits."""
    return jnp.asarray(MODEL.apply({"params": params}, x_BM))


def margins(params: PyTree, labels_B: Array, x_BM: Array) -> Array:
    """Compute by how much the best wrong class exceeds the right one."""
    logits_BV = classify(params, x_BM)
    right_BV = jax.nn.one_hot(labels_B, CLASSES, dtype=bool)
    wrong_B = jnp.max(jnp.where(right_BV, -jnp.inf, logits_BV), axis=-1)
    return wrong_B - jnp.sum(jnp.where(right_BV, logits_BV, 0.0), axis=-1)


def divergence(params: PyTree, x_BM: Array, batch: AttackedBatch) -> Array:
    """Compute KL(clean || moved), which TRADES ascends."""
    clean_BV = jax.nn.log_softmax(classify(params, batch.inputs))
    moved_BV = jax.nn.log_softmax(classify(params, x_BM))
    return jnp.sum(jnp.exp(clean_BV) * (clean_BV - moved_BV), axis=-1)


def attack_by_gradient(
    params: PyTree,
    x_BM: Array,
    labels_B: Array,
    *,
    key: Key,
    n_steps: int,
    restarts: int,
) -> Array:
    """Find whom PGD on the cross entropy makes wrong, in any restart."""
    moved = projected_ascent(
        lambda x: losses.next_token_loss(classify(params, x), labels_B),
        x_BM,
        ball=max_ball(RADIUS),
        step_size=RADIUS / 4,
        n_steps=n_steps,
        restarts=restarts,
        pick_of=partial(margins, params, labels_B),
        key=key,
    )
    # Not `> 0`: a margin that is NaN or 0 is no right answer.
    return ~(margins(params, labels_B, moved) < 0)


def attack_by_squares(
    params: PyTree, x_BM: Array, labels_B: Array, *, key: Key, n_queries: int
) -> Array:
    """Find whom the square attack makes wrong."""
    size = round(x_BM.shape[-1] ** 0.5)

    def value_of(images: Array) -> Array:
        return margins(params, labels_B, images.reshape(x_BM.shape))

    moved = square_attack(
        value_of,
        x_BM.reshape(-1, size, size),
        radius=RADIUS,
        n_queries=n_queries,
        key=key,
    )
    return ~(value_of(moved) < 0)


def errors_by_class(wrong_B: Array, labels_B: Array) -> Array:
    """Compute the share of wrong answers in each class."""
    of_class_VB = labels_B == jnp.arange(CLASSES)[:, None]
    return (of_class_VB & wrong_B).sum(axis=1) / of_class_VB.sum(axis=1)


@cache
def build_runs(training: Training) -> Callable[[PyTree, PyTree], Trained]:
    """Build every seed's run at every setting, compiled once."""
    return map_runs(partial(train, training=training))


@cache
def build_attacks(training: Training) -> Callable[..., tuple[Array, Array, Array]]:
    """Build the attacks on every model, compiled once for all methods."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None))
    def attack(
        params: PyTree, x_BM: Array, labels_B: Array
    ) -> tuple[Array, Array, Array]:
        key = jax.random.key(0)
        by_gradient_B = attack_by_gradient(
            params,
            x_BM,
            labels_B,
            key=key,
            n_steps=training.attack_steps,
            restarts=training.restarts,
        )
        by_squares_B = attack_by_squares(
            params, x_BM, labels_B, key=key, n_queries=training.queries
        )
        clean_B = ~(margins(params, labels_B, x_BM) < 0)
        return (
            errors_by_class(by_gradient_B, labels_B),
            errors_by_class(by_squares_B, labels_B),
            errors_by_class(clean_B, labels_B),
        )

    return attack
