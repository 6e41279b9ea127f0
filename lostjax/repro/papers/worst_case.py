"""Doubly robust adversarial training on garments, some of which are rare.

Sow et al., "Doubly Robust Instance-Reweighted Adversarial Training", 2023,
arXiv:2308.00311: examples that stay vulnerable count more, so that the classes with
the worst robust accuracy gain, and the average does not suffer. Their images are not
at hand; here it is Fashion-MNIST with a long tail: the most frequent class has ten
times the images of the rarest, in an order that each seed draws. Images are attacked
within .03 of each pixel.

    PGD              5 steps of half the radius from a random start; weight decay 0,
                     .0005, .005
    TRADES           the same against the divergence; its weight 1, 3, 6
    class weights    PGD with weights n^-p of a class of n images; p .25, .5, 1
    reweighted       PGD with the doubly robust weights; temperature 1, 2, 4
    batch softmax    the same by each batch alone, without a running mean
    barrier          5 steps of barrier ascent, and its answer to the parameters in the
                     gradient; weight .00001, .0001, .001
    doubly robust    barrier (.0001) and weights; temperature 1, 2, 4
    shuffled         the control: the same weights, given to other examples of the batch

The paper's temperatures and weights could not be read; these were settled before
anything was measured, after digits, in whose pilot a temperature of 2 was the best and
one below 1 did harm. Weights begin after a third of the steps. Of its three settings
each seed takes the best by 1,000 validation images under ten steps of PGD, and the rate
is the best by the mean over seeds: once by the average error and once by the tail's,
the mean of the three worst classes, of which each is reported at its own.

The attacks of the table are PGD of 50 steps with 5 restarts, where an example counts
as wrong if any of them succeeds, and the square attack of 500 queries, which sees no
gradient. A seed is a draw of images, of the classes' order, of the initialisation and
of the order of images, the same for every method; all share the attacked images.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import epoch_rows
from lostjax.nn import MLP
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.images import DIGITS, GARMENTS, load_rows
from lostjax.repro.tune import Grids, Tuning, use_whole_grid
from lostjax.steps import (
    AdversarialState,
    AttackedBatch,
    Barrier,
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
from lostjax.sweep.cell_file import Cell
from lostjax.typing import Array, Key, PyTree

AVERAGE, TAIL, WORST = (
    "PGD, average: error, %",
    "PGD, tail: error, %",
    "PGD, worst: error, %",
)
SQUARE, SQUARE_TAIL = "square, average: error, %", "square, tail: error, %"
CLEAN = "no attack: error, %"
VALIDATION, VALIDATION_TAIL = "validation: error, %", "validation, tail: error, %"
"""Names of measures."""

RADIUS, BATCH, MOMENTUM, CLASSES, IMBALANCE, NEW_SHARE = 0.03, 100, 0.9, 10, 10.0, 0.1
WIDTHS = (64, 32, CLASSES)
OURS = "doubly robust"


class Settings(NamedTuple):
    """What a run may be told without being compiled again."""

    weight_decay: float = 0.0
    beta: float = 0.0
    """Weight of the divergence in TRADES."""
    power: float = 0.0
    """Of the classes' sizes, in their weights."""
    temperature: float = 0.0
    """Of the doubly robust weights; 0 for none."""
    new_share: float = NEW_SHARE
    barrier: float = 1e-4


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, what it is made of, and the settings that it chooses among."""

    data: str = GARMENTS
    rows: int = 6000
    validation_rows: int = 1000
    test_rows: int = 1000
    epochs: int = 15
    attack_steps: int = 50
    restarts: int = 5
    queries: int = 500
    choices: tuple[Settings, ...] = (Settings(),)
    barrier: bool = False
    """Ascend with a barrier and add its answer, in place of PGD."""
    trades: bool = False
    shuffled: bool = False


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Name every method."""

    def choose(
        values: Sequence[float], field: str, **fixed: float
    ) -> dict[str, object]:
        found = (Settings(**{field: each}, **fixed) for each in values)
        return {"choices": tuple(found)}

    change = partial(dataclasses.replace, scale.config)
    hard = (1.0, 2.0, 4.0), "temperature"
    return {
        "PGD": change(**choose((0.0, 5e-4, 5e-3), "weight_decay")),
        "TRADES": change(trades=True, **choose((1.0, 3.0, 6.0), "beta")),
        "class weights": change(**choose((0.25, 0.5, 1.0), "power")),
        "reweighted": change(**choose(*hard)),
        "batch softmax": change(**choose(*hard, new_share=1.0)),
        "barrier": change(barrier=True, **choose((1e-5, 1e-4, 1e-3), "barrier")),
        OURS: change(barrier=True, **choose(*hard)),
        "shuffled": change(barrier=True, shuffled=True, **choose(*hard)),
    }


def _compare() -> tuple[Comparison, ...]:
    """State what the paper says, and which of its parts does it."""
    names = {
        AVERAGE: "on average",
        TAIL: "in the three worst classes",
        WORST: "in the worst class",
        SQUARE: "on average, by squares",
        SQUARE_TAIL: "in the three worst classes, by squares",
        CLEAN: "without an attack",
    }
    pairs = [(OURS, other, measure) for other in ("PGD", "TRADES") for measure in names]
    pairs += [
        (OURS, other, measure)
        for other in (
            "class weights",
            "reweighted",
            "batch softmax",
            "barrier",
            "shuffled",
        )
        for measure in (AVERAGE, TAIL)
    ]
    pairs += [
        (first, "PGD", measure)
        for first in ("reweighted", "barrier")
        for measure in (AVERAGE, TAIL)
    ]
    return tuple(
        Comparison(
            first, second, f"{first} errs less than {second} {names[measure]}", measure
        )
        for first, second, measure in pairs
    )


class Seed(NamedTuple):
    """What is trained on and tuned by."""

    inputs_BM: Array
    labels_B: Array
    counts_V: Array
    """Images of each class."""
    validation_BM: Array
    validation_labels_B: Array
    key: Key


class Targets(NamedTuple):
    """Classes, and what an example of them counts."""

    labels_B: Array
    weights_B: Array


MODEL = MLP(WIDTHS)


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


def make_step(training: Training, tx: optax.GradientTransformation, settings: Settings):
    """Build a method's step."""

    def cross_entropy(params: PyTree, x_BM: Array, batch: AttackedBatch) -> Array:
        values_B = losses.next_token_loss(
            classify(params, x_BM), batch.targets.labels_B
        )
        return batch.targets.weights_B * values_B

    def trades(params: PyTree, x_BM: Array, batch: AttackedBatch) -> Array:
        clean_B = cross_entropy(params, batch.inputs, batch)
        return clean_B + settings.beta * divergence(params, x_BM, batch)

    barrier = Barrier(RADIUS, settings.barrier)
    pgd = partial(
        projected_ascent, ball=max_ball(RADIUS), step_size=RADIUS / 2, n_steps=5
    )
    if training.barrier:

        def attack(value_of, x_BM, key):
            return barrier_ascent(value_of, x_BM, barrier=barrier, n_steps=5)
    else:

        def attack(value_of, x_BM, key):
            return pgd(value_of, x_BM, key=key)

    n_steps = training.epochs * (training.rows // BATCH)
    weigh = weigh_hard(
        temperature=jnp.where(settings.temperature > 0, settings.temperature, jnp.inf),
        new_share=settings.new_share,
        warm_up=n_steps // 3,
    )
    return make_adversarial_step(
        trades if training.trades else cross_entropy,
        tx,
        attack=attack,
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


class Trained(NamedTuple):
    """Parameters, and their validation errors by class."""

    params: PyTree
    errors_V: Array


def train(
    seed: Seed, setting: tuple[Array, Settings], *, training: Training
) -> Trained:
    """Train on one draw, and attack its validation images."""
    rate, settings = setting
    keys = jax.random.split(seed.key, 4)
    n_epoch = training.rows // BATCH
    tx = optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(
            optax.cosine_decay_schedule(rate, training.epochs * n_epoch), MOMENTUM
        ),
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


class Drawn(NamedTuple):
    """Seeds, and the images that are attacked, which all share."""

    seeds: Seed
    test_BM: Array
    test_labels_B: Array


@cache
def draw(training: Training, seeds: tuple[int, ...]) -> Drawn:
    """Draw a long tail to train on for each seed, and all else in equal parts."""
    train, test = load_rows(training.data)
    shares_V = IMBALANCE ** -(np.arange(CLASSES) / (CLASSES - 1))
    wanted_V = np.floor(training.rows * shares_V / shares_V.sum()).astype(int)
    wanted_V[0] += training.rows - wanted_V.sum()
    each = training.validation_rows // CLASSES
    found = []
    for number in seeds:
        generator = np.random.default_rng(number)
        counts_V = generator.permutation(wanted_V)
        rows, validation = [], []
        for label, count in enumerate(counts_V):
            of_class = generator.permutation(np.flatnonzero(train.labels == label))
            rows.append(of_class[each : each + count])
            validation.append(of_class[:each])
        rows_B, validation_B = np.concatenate(rows), np.concatenate(validation)
        found.append(
            Seed(
                train.inputs[rows_B],
                train.labels[rows_B],
                counts_V.astype(np.float32),
                train.inputs[validation_B],
                train.labels[validation_B],
                jax.random.key(number),
            )
        )
    stacked: Seed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    per_class = training.test_rows // CLASSES
    first_B = np.concatenate(
        [np.flatnonzero(test.labels == label)[:per_class] for label in range(CLASSES)]
    )
    return Drawn(
        stacked, jnp.asarray(test.inputs[first_B]), jnp.asarray(test.labels[first_B])
    )


@cache
def _runs(training: Training) -> Callable[[PyTree, PyTree], Trained]:
    """Build every seed's run at every setting, compiled once."""
    return map_runs(partial(train, training=training))


@cache
def _attacks(training: Training) -> Callable[..., tuple[Array, Array, Array]]:
    """Build the attacks on every model, compiled once for all methods."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None))
    def attack(params: PyTree, x_BM: Array, labels_B: Array):
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
        return tuple(
            errors_by_class(wrong_B, labels_B)
            for wrong_B in (by_gradient_B, by_squares_B, clean_B)
        )

    return attack


def train_seeds(
    training: Training, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train every seed with every choice; attack the two that validate best."""
    assert learning_rate is not None
    size = dataclasses.replace(training, choices=(), **PLAIN)
    drawn = draw(size, tuple(seeds))
    settings = Settings(*np.asarray(training.choices, np.float32).T)
    rates = np.full(len(training.choices), learning_rate, np.float32)
    runs = _runs(dataclasses.replace(training, choices=()))
    trained = runs(drawn.seeds, (rates, settings))
    errors_SCV = np.asarray(trained.errors_V)
    means_SC, tails_SC = errors_SCV.mean(-1), tail(errors_SCV)
    every = np.arange(len(seeds))
    best_2S = means_SC.argmin(1), tails_SC.argmin(1)
    attack = _attacks(size)
    found = [
        [
            100 * np.asarray(errors)
            for errors in attack(
                jax.tree.map(lambda leaf: leaf[every, best_S], trained.params),  # noqa: B023
                drawn.test_BM,
                drawn.test_labels_B,
            )
        ]
        for best_S in best_2S
    ]
    (by_gradient, by_squares, clean), (tail_gradient, tail_squares, _) = found
    measures = {
        AVERAGE: by_gradient.mean(-1),
        TAIL: tail(tail_gradient),
        WORST: tail_gradient.max(-1),
        SQUARE: by_squares.mean(-1),
        SQUARE_TAIL: tail(tail_squares),
        CLEAN: clean.mean(-1),
        VALIDATION: 100 * means_SC.min(1),
        VALIDATION_TAIL: 100 * tails_SC.min(1),
    }
    return {name: list(map(float, values)) for name, values in measures.items()}


PLAIN = {"barrier": False, "trades": False, "shuffled": False}
"""What the data and the attacks do not depend on."""


def tail(errors: np.ndarray) -> np.ndarray:
    """Average the three worst of the classes, the last axis."""
    return np.asarray(np.sort(errors, axis=-1)[..., -3:].mean(axis=-1))


def summarise(grids: Grids) -> dict[str, tuple[float, ...]]:
    """Take averages and tails at the rates that validate best for them."""
    found = {}
    for by, names in (
        (VALIDATION, (AVERAGE, SQUARE, CLEAN)),
        (VALIDATION_TAIL, (TAIL, WORST, SQUARE_TAIL)),
    ):
        means = {
            rate: np.mean([grid[rate].measures[by] for grid in grids])
            for rate in grids[0]
        }
        best = min(means, key=means.__getitem__)
        for name in names:
            found[name] = tuple(grid[best].measures[name] for grid in grids)
    return found


def validate(cell: Cell) -> float:
    """Read the average error in validation."""
    return cell.measures[VALIDATION]


TUNING: Tuning = use_whole_grid(summarise, loss=validate)._replace(
    sentence="The learning rate has the least mean validation error over the seeds: "
    "that of the average error, which is shown, and for tails that of the tail."
)


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config = scale.config
    widths = ", ".join(map(str, WIDTHS[:-1]))
    return (
        f"Every run: a perceptron of {widths} and {CLASSES} units on {config.rows:,} "
        f"images of {config.data} with a long tail ({IMBALANCE:g} to 1), "
        f"{config.epochs} epochs of SGD with momentum {MOMENTUM:g} and a cosine "
        f"schedule, {BATCH} images a step, attacked within {RADIUS:g} of each pixel. "
        f"{config.test_rows:,} test images, as many of each class, are attacked by PGD "
        f"of {config.attack_steps} steps with {config.restarts} restarts and by "
        f"{config.queries} queries of the square attack. The tail is the mean of the "
        "three worst classes. Three settings of each method are chosen among for each "
        f"seed by {config.validation_rows:,} validation images under 10 steps of PGD."
    )


RATES = (0.05, 0.1, 0.2)

EXPERIMENT = Experiment(
    paper="Doubly Robust Instance-Reweighted Adversarial Training (arXiv:2308.00311)",
    scales={
        "smoke": Scale(
            Training(DIGITS, 300, 100, 100, 2, 5, 2, 20), RATES[1:], ("PGD", OURS)
        ),
        "small": Scale(Training(), RATES),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=(AVERAGE, TAIL, WORST, SQUARE, SQUARE_TAIL, CLEAN),
    train=train_seeds,
    tuning=TUNING,
    setting=describe,
    swept="validation error, %",
    interval=PAIRED,
)
