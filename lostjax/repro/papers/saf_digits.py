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
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from lostjax import losses
from lostjax.analysis import ascent_rise, random_rise
from lostjax.repro.claims import Comparison
from lostjax.repro.digits import (
    BATCH,
    DECAY,
    LAG,
    MOMENTUM,
    START,
    TEMPERATURE,
    Split,
    Training,
    classify,
    load_digits,
    split_digits,
    train,
)
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.papers.saf import ASCENT, RADIUS, RANDOM, RANDOM_RADIUS
from lostjax.repro.tune import tune_apart
from lostjax.typing import Array, Float, PyTree

LOSS, ERROR = "held-out loss, mnats", "held-out error, %"
"""Names of measures; the rises are those of `repro.papers.saf`."""

DIRECTIONS = 16


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


def train_seeds(
    config: Training, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train on every split at once; NaN if a run diverged."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    splits = _split(config.rows, tuple(seeds))
    found = _train_and_judge(splits, keys, learning_rate, training=config)
    return {name: list(map(float, values)) for name, values in found.items()}


@cache
def _split(rows: int, seeds: tuple[int, ...]) -> Split:
    digits = load_digits()
    splits = [split_digits(digits, rows=rows, seed=seed) for seed in seeds]
    stacked: Split = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
    return stacked


@partial(jax.jit, static_argnames="training")
def _train_and_judge(
    splits: Split, keys: jax.Array, rate: Any, *, training: Training
) -> dict[str, jax.Array]:
    """Train on every split, and measure what came out."""

    def train_and_judge(split: Split, key: jax.Array) -> dict[str, jax.Array]:
        return judge_params(split, train(split, key, rate, training=training))

    return jax.vmap(train_and_judge)(splits, keys)


def judge_params(split: Split, params: PyTree) -> dict[str, Float[Array, ""]]:
    """Measure a model: held-out loss and errors, and both rises of the loss."""
    logits_BV = classify(params, split.heldout.x_BM)
    labels_B = split.heldout.labels_B
    wrong_B = jnp.argmax(logits_BV, axis=-1) != labels_B

    def loss(params: PyTree) -> jax.Array:
        logits_BV = classify(params, split.train.x_BM)
        return losses.next_token_loss(logits_BV, split.train.labels_B).mean()

    random = random_rise(
        loss,
        params,
        key=jax.random.key(0),
        radius=RANDOM_RADIUS,
        n_directions=DIRECTIONS,
    )
    return {
        LOSS: 1000 * losses.next_token_loss(logits_BV, labels_B).mean(),
        ERROR: 100 * jnp.mean(wrong_B.astype(jnp.float32)),
        ASCENT: 1000 * ascent_rise(loss, params, radius=RADIUS),
        RANDOM: 1000 * random,
    }


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
        "smoke": Scale(Training(rows=128, hidden=16, epochs=12), RATES),
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
