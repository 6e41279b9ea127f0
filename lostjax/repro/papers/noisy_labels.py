"""Compressed features and co-teaching on labels that are wrong as people's are.

Chen et al., "Compressing Features for Learning with Noisy Labels", 2022,
arXiv:2206.13140: features sorted by nested dropout (or compressed by dropout) keep a
network from fitting wrong labels, and the more so together with co-teaching. Their
images are not at hand; here it is Fashion-MNIST with wrong labels drawn

    human 17 %, human 40 %    by the confusion matrix that people have on CIFAR-10:
                              "random 1" and "worst" of CIFAR-10N, class by class
    symmetric 20 %, 50 %      evenly among the nine other classes
    none                      the control: what a method costs if nothing is wrong

Every method trains two networks and answers by the mean of their logits, so that
co-teaching gains nothing by having two. Each has three settings of its own, the
learning rates, and five lengths of training, chosen by the same clean validation
images: settings and length for each seed, the rate by the mean over seeds. Settled
before anything was measured:

    cross entropy    weight decay 0, .0005, .005
    dropout          rate .3, .6, .9
    nested dropout   sigma 4, 8, 16 of 32 features; k by validation, as the authors do
    generalised cross entropy    q .3, .5, .7
    co-teaching      drops .5, 1, 1.25 times the share of wrong labels, which it is told
                     (.2 if there are none), from the eighth epoch on, over four epochs
    both             the compression's settings, and drops as many as there are wrong
    cleanlab         three filters of labels by networks trained on the other half, then
                     cross entropy on what is left

Co-teaching starts from networks trained without it and picks by the loss without
dropout, at the best k (anew every four epochs), as the authors have it; it shows both
networks the same batch, as Han et al. have it (arXiv:1804.06872).

Clean validation images stop every method before it fits the noise. Errors after all
epochs, with settings and rate chosen for them, show what happens if nothing does.
Squared errors of probabilities split into

    mean over seeds |p_s - y|^2 = |mean p - y|^2 + mean |p_s - mean p|^2
    (bias^2)                      (variance)

on test images that all seeds share. A seed is a draw of images, wrong labels,
initialisation and order, the same for every method.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from lostjax import losses
from lostjax.data import (
    DataError,
    confuse_labels,
    epoch_rows,
    estimate_confusion,
    load_human_labels,
    symmetric_confusion,
)
from lostjax.nn import MLP, NestedDropout, truncation_sweep
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.images import DIGITS, GARMENTS, load_rows
from lostjax.repro.tune import Grids, Tuning, use_whole_grid
from lostjax.steps import fit, init_coteaching, make_coteaching_step, map_runs
from lostjax.sweep.cell_file import Cell
from lostjax.typing import Array, Key, PyTree

NOISES = {
    "human 17 %": 0.172,
    "human 40 %": 0.402,
    "symmetric 20 %": 0.2,
    "symmetric 50 %": 0.5,
    "none": 0.2,
}
"""What co-teaching is told of the share of wrong labels."""
STRONG = "human 40 %", "symmetric 50 %"
"""Noise whose effect is looked into."""
BOTH = "nested dropout, co-teaching"
CLASSES, BATCH, MOMENTUM, FEATURES, HIDDEN = 10, 50, 0.9, 32, 64
PERIODS = 5
"""At whose ends a network is measured; co-teaching begins after two."""
FILTERS = ("prune_by_noise_rate", "prune_by_class", "both")


def error(noise: str) -> str:
    """Name the measure of test errors."""
    return f"{noise}: error, %"


def variance(noise: str) -> str:
    """Name the measure of the variance over seeds."""
    return f"{noise}: variance, %"


def last_error(noise: str) -> str:
    """Name the measure of test errors after all epochs."""
    return f"{noise}: error after all epochs, %"


def last_validation(noise: str) -> str:
    """Name the measure that errors after all epochs are tuned by."""
    return f"{noise}: validation error after all epochs, %"


def validation(noise: str) -> str:
    """Name the measure that is tuned by."""
    return f"{noise}: validation error, %"


def squared_bias(noise: str) -> str:
    """Name the measure of the squared bias."""
    return f"{noise}: squared bias, %"


class Settings(NamedTuple):
    """What a run may be told without being compiled again."""

    weight_decay: float = 0.0
    dropout: float = 0.0
    sigma: float = 0.0
    """Of nested dropout; 0 for none."""
    q: float = 0.0
    """Of the generalised cross entropy; 0 for cross entropy."""
    dropped: float = 0.0
    """By co-teaching, as a multiple of the share of wrong labels."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Size of a run, and the settings that a method chooses among."""

    data: str = GARMENTS
    """Or digits, for the smoke scale, with symmetric noise in people's place."""
    rows: int = 2000
    validation_rows: int = 1000
    test_rows: int = 1000
    epochs: int = 4
    """Of each period."""
    block: int = 5
    """Seeds that the variance is taken over."""
    choices: tuple[Settings, ...] = (Settings(),)
    filtered: bool = False
    """Drop labels by cleanlab's filter first; one filter for each of the choices."""


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Name every method's choices."""
    dropouts = [Settings(dropout=rate) for rate in (0.3, 0.6, 0.9)]
    nested = [Settings(sigma=sigma) for sigma in (4.0, 8.0, 16.0)]
    choices = {
        "cross entropy": [Settings(weight_decay=each) for each in (0.0, 5e-4, 5e-3)],
        "dropout": dropouts,
        "nested dropout": nested,
        "generalised cross entropy": [Settings(q=q) for q in (0.3, 0.5, 0.7)],
        "co-teaching": [Settings(dropped=each) for each in (0.5, 1.0, 1.25)],
        "dropout, co-teaching": [each._replace(dropped=1.0) for each in dropouts],
        BOTH: [each._replace(dropped=1.0) for each in nested],
    }
    found = {
        method: dataclasses.replace(scale.config, choices=tuple(each))
        for method, each in choices.items()
    }
    plain = (Settings(),) * len(FILTERS)
    found["cleanlab's filter"] = dataclasses.replace(
        scale.config, choices=plain, filtered=True
    )
    return found


def _compare() -> tuple[Comparison, ...]:
    """State what the paper says, of every kind of noise, and the controls."""
    wrong = [noise for noise in NOISES if noise != "none"]
    others = [
        "cross entropy",
        "dropout",
        "generalised cross entropy",
        "co-teaching",
        "cleanlab's filter",
    ]
    pairs = [(BOTH, other) for other in others]
    pairs += [
        ("dropout, co-teaching", "co-teaching"),
        ("nested dropout", "cross entropy"),
    ]
    found = [
        Comparison(
            first, second, f"{noise}: {first} errs less than {second}", error(noise)
        )
        for first, second in pairs
        for noise in wrong
    ]
    for noise in STRONG:
        for second in ("cross entropy", "co-teaching"):
            said = f"{noise}, after all epochs: {BOTH} errs less than {second}"
            found.append(Comparison(BOTH, second, said, last_error(noise)))
        for name, measure in (
            ("a smaller variance", variance(noise)),
            ("a smaller squared bias", squared_bias(noise)),
        ):
            for first in ("dropout", "nested dropout"):
                said = f"{noise}: {first} has {name} than cross entropy"
                found.append(Comparison(first, "cross entropy", said, measure))
    control = f"control, without wrong labels: {BOTH} errs less than cross entropy"
    found.append(Comparison(BOTH, "cross entropy", control, error("none")))
    return tuple(found)


class Seed(NamedTuple):
    """What one pair of networks is trained on."""

    inputs_BM: Float[Array, "B M"]
    labels_B: Array
    rows_S2B: Array
    """Rows of each step and network."""
    validation_inputs_BM: Float[Array, "B M"]
    validation_labels_B: Array
    told: Array
    """Share of wrong labels, as co-teaching is told."""
    key: Key


class Batch(NamedTuple):
    """One network's; a key for dropout and the k to pick at."""

    x_BM: Array
    labels_B: Array
    key: Key
    k: Array


class Ran(NamedTuple):
    """What a run came to; P periods."""

    validation_P: Float[Array, "P"]
    """Share of errors."""
    test_PBV: Float[Array, "P B V"]
    """Probabilities."""
    fitted_P2BV: Float[Array, "P 2 B V"]
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
    return jnp.asarray(kept_BD) @ params["kernel_DN"]


def descend(params: PyTree, batch: Batch, settings: Settings) -> Array:
    """Compute the losses that are descended, with dropout."""
    keys = jax.random.split(batch.key)
    features_BD = encode(params, batch.x_BM)
    stays_BD = jax.random.bernoulli(keys[0], 1 - settings.dropout, features_BD.shape)
    features_BD = jnp.where(stays_BD, features_BD / (1 - settings.dropout), 0.0)
    nested = NestedDropout(jnp.where(settings.sigma > 0, settings.sigma, 1.0))
    first_BD = nested.apply({}, features_BD, rngs={"dropout": keys[1]})
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


class Drawn(NamedTuple):
    """Data of every seed and noise, and the test images that they share."""

    seeds: list[Seed]
    test_BM: np.ndarray
    test_labels_B: np.ndarray


@cache
def load_confusions(data: str) -> dict[str, np.ndarray]:
    """Load the confusion matrix of every kind of noise."""
    rates = {"symmetric 20 %": 0.2, "symmetric 50 %": 0.5, "none": 0.0}
    if data == DIGITS:
        rates |= {noise: NOISES[noise] for noise in NOISES if "human" in noise}
    found = {
        noise: symmetric_confusion(CLASSES, rate=rate) for noise, rate in rates.items()
    }
    if data != DIGITS:
        people = load_human_labels()
        for noise, given in (("17", people.random_1), ("40", people.worst)):
            found[f"human {noise} %"] = estimate_confusion(
                people.true, given, n_classes=CLASSES
            )
    return {noise: found[noise] for noise in NOISES}


@cache
def draw(training: Training, block: int) -> Drawn:
    """Draw every seed of a block, each with every kind of noise, in turn."""
    split, confusions = load_rows(training.data), load_confusions(training.data)
    seeds = []
    for number in range(block * training.block, (block + 1) * training.block):
        order = np.random.default_rng(number).permutation(len(split.train.labels))
        rows = order[: training.rows]
        valid = order[training.rows : training.rows + training.validation_rows]
        key = jax.random.key(number)
        steps_SB = epoch_rows(
            jax.random.fold_in(key, 1),
            n_rows=training.rows,
            batch_size=BATCH,
            n_epochs=PERIODS * training.epochs,
        )
        for place, (noise, confusion_VV) in enumerate(confusions.items()):
            labels_B = confuse_labels(
                split.train.labels[rows],
                confusion_VV,
                key=jax.random.fold_in(key, 2 + place),
            )
            seeds.append(
                Seed(
                    split.train.inputs[rows],
                    np.asarray(labels_B),
                    np.stack([steps_SB, steps_SB], axis=1),
                    split.train.inputs[valid],
                    split.train.labels[valid],
                    np.float32(NOISES[noise]),
                    jax.random.fold_in(key, 100),
                )
            )
    test = slice(training.test_rows)
    return Drawn(seeds, split.heldout.inputs[test], split.heldout.labels[test])


@cache
def _runs(training: Training) -> Callable[[PyTree, PyTree], Ran]:
    """Build every run of every method, compiled once."""
    test_BM = jnp.asarray(draw(training, 0).test_BM)
    return map_runs(lambda seed, setting: run(seed, setting, test_BM=test_BM))


def stack(seeds: Sequence[Seed]) -> Seed:
    """Stack seeds to one tree."""
    stacked: Seed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    return stacked


def train_choices(training: Training, rate: float, block: int) -> Ran:
    """Train a block with every choice: leaves (seeds x noises, choices, ...)."""
    drawn = draw(_shared(training), block)
    runs = _runs(_shared(training))
    if training.filtered:
        return _train_filtered(drawn, runs, rate, training)
    settings = Settings(*np.asarray(training.choices, np.float32).T)
    rates = np.full(len(training.choices), rate, np.float32)
    return jax.tree.map(np.asarray, runs(stack(drawn.seeds), (rates, settings)))


def _shared(training: Training) -> Training:
    """Leave out what differs between methods."""
    return dataclasses.replace(training, choices=(), filtered=False)


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
    return jax.tree.map(lambda *each: np.concatenate(each, axis=1), *found)


def _rows_of(rows: np.ndarray, n_steps: int) -> np.ndarray:
    """Draw the rows of all steps from some rows, each once an epoch."""
    epochs = -(-n_steps * BATCH // len(rows))
    generator = np.random.default_rng(0)
    order = np.concatenate([generator.permutation(rows) for _ in range(epochs)])
    return order[: n_steps * BATCH].reshape(n_steps, BATCH).astype(np.int32)


def train_seeds(
    training: Training, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Measure seeds, each among all of its block, over which the variance is taken."""
    assert learning_rate is not None
    places = [divmod(seed, training.block) for seed in seeds]
    blocks = {
        block: measure_block(training, learning_rate, block)
        for block in sorted({block for block, _ in places})
    }
    names = next(iter(blocks.values()))
    return {
        name: [float(blocks[block][name][place]) for block, place in places]
        for name in names
    }


def measure_block(
    training: Training, rate: float, block: int
) -> dict[str, Float[np.ndarray, "S"]]:
    """Measure every seed of a block, at its best choice and length by validation."""
    drawn = draw(_shared(training), block)
    ran = train_choices(training, rate, block)
    truth_BV = np.eye(CLASSES)[drawn.test_labels_B]
    found: dict[str, np.ndarray] = {}
    for place, noise in enumerate(NOISES):
        of_noise = slice(place, None, len(NOISES))
        validation_SCP = ran.validation_P[of_noise]
        p_SCPBV = ran.test_PBV[of_noise].astype(np.float64)
        last_S = validation_SCP[:, :, -1].argmin(axis=1)
        lasts_SBV = p_SCPBV[np.arange(len(last_S)), last_S, -1]
        validation_SC = validation_SCP.reshape(training.block, -1)
        best_S = validation_SC.argmin(axis=1)
        p_SBV = p_SCPBV.reshape(*validation_SC.shape, *truth_BV.shape)[
            np.arange(len(best_S)), best_S
        ]
        squares_S = np.square(p_SBV - truth_BV).sum(-1).mean(-1)
        spreads_S = np.square(p_SBV - p_SBV.mean(axis=0)).sum(-1).mean(-1)
        found |= {
            validation(noise): 100 * validation_SC.min(axis=1),
            error(noise): _count_errors(p_SBV, drawn.test_labels_B),
            variance(noise): 100 * spreads_S,
            squared_bias(noise): 100 * (squares_S - spreads_S),
            last_validation(noise): 100 * validation_SCP[:, :, -1].min(axis=1),
            last_error(noise): _count_errors(lasts_SBV, drawn.test_labels_B),
        }
    return found


def _count_errors(p_SBV: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Count each seed's errors, in percent."""
    wrong_SB = p_SBV.argmax(axis=-1) != labels_B
    return np.asarray(100 * wrong_SB.mean(axis=-1))


def summarise(grids: Grids) -> dict[str, tuple[float, ...]]:
    """Take every kind of noise at the rate that validates best on the mean."""

    def take(by: str, *names: str) -> dict[str, tuple[float, ...]]:
        means = {
            rate: np.mean([grid[rate].measures[by] for grid in grids])
            for rate in grids[0]
        }
        best = min(means, key=means.__getitem__)
        return {
            name: tuple(grid[best].measures[name] for grid in grids) for name in names
        }

    found: dict[str, tuple[float, ...]] = {}
    for noise in NOISES:
        own = error(noise), variance(noise), squared_bias(noise)
        found |= take(validation(noise), *own)
        found |= take(last_validation(noise), last_error(noise))
    return found


def validate(cell: Cell) -> float:
    """Compute the mean validation error over all kinds of noise."""
    return float(np.mean([cell.measures[validation(noise)] for noise in NOISES]))


TUNING: Tuning = use_whole_grid(summarise, loss=validate)._replace(
    sentence="For each kind of noise the learning rate has the least mean validation "
    "error over the seeds; the one shown is the best for all kinds together."
)


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every run: two perceptrons of {HIDDEN} and {FEATURES} units on "
        f"{config.rows:,} images of {config.data}, {PERIODS * config.epochs} epochs of "
        f"SGD with momentum {MOMENTUM:g}, {BATCH} images a step; the mean of their "
        f"logits answers {config.test_rows:,} test images. Three settings of each "
        f"method and the number of epochs are chosen for each seed by "
        f"{config.validation_rows:,} "
        "clean validation images. Variance and squared bias are of the probabilities, "
        f"in hundredths, over {config.block} seeds."
    )


RATES = (0.005, 0.015, 0.045)

EXPERIMENT = Experiment(
    paper="Compressing Features for Learning with Noisy Labels (arXiv:2206.13140)",
    scales={
        "smoke": Scale(
            Training(DIGITS, 100, 100, 100, epochs=1, block=2),
            RATES[1:],
            ("cross entropy", "nested dropout", "co-teaching", BOTH),
        ),
        "small": Scale(Training(), RATES),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=(
        *map(error, NOISES),
        *(
            measure(noise)
            for noise in STRONG
            for measure in (last_error, variance, squared_bias)
        ),
    ),
    train=train_seeds,
    tuning=TUNING,
    setting=describe,
    swept="mean validation error, %",
    seeds=5,
    interval=PAIRED,
)
