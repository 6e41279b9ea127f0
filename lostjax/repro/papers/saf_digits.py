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
every method. A rate is as good as its mean held-out loss over all seeds; errors are
those at the rate that has the fewest, for where the loss rises at last by
overconfidence the errors do not.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lostjax import losses
from lostjax.analysis import ascent_rise, random_rise
from lostjax.repro.claims import Claim, Comparison, Cost, Row, judge
from lostjax.repro.digits import (
    BATCH,
    DECAY,
    LAG,
    MOMENTUM,
    START,
    TEMPERATURE,
    DigitsScale,
    Method,
    Split,
    classify,
    load_digits,
    split_digits,
    train,
)
from lostjax.repro.papers.saf import ASCENT, RADIUS, RANDOM, RANDOM_RADIUS
from lostjax.repro.tune import tune_by_mean
from lostjax.sweep.cells import describe_machine
from lostjax.typing import Array, Float, PyTree

LOSS, ERROR = "held-out loss, mnats", "held-out error, %"
MEASURES = (LOSS, ERROR, ASCENT, RANDOM)
"""Names of the measures; the rises are those of `repro.papers.saf`."""

DIRECTIONS = 16

RATES = (0.02, 0.04, 0.08)
"""Grid of peak learning rates, widened where the best lies at its edge."""


SCALES = {
    "smoke": DigitsScale("smoke", rows=128, hidden=16, epochs=12),
    "small": DigitsScale("small"),
}


METHODS = {
    "SGD": Method(),
    "SGD, averaged": Method(averaged=True),
    "label smoothing": Method(smoothing=0.1),
    "SAM": Method(sam_radius=0.05),
    "SAF": Method(saf=0.3),
    "MESA": Method(mesa=0.8),
}


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


def run(scale: DigitsScale, *, seeds: int, directory: Path, workers: int = 1) -> Claim:
    """Measure the claim, in a minute or two.

    Args:
      scale: one of `SCALES`.
      seeds: how many splits a row, at least 2.
      directory: not used, for no run is worth keeping.
      workers: not used: all seeds are trained at once.

    Returns:
      The claim with its rows and findings.

    Raises:
      SweepError: where some method's best rate was not found.
      ConfigError: where scikit-learn, which brings the digits, is not installed.
    """
    began = time.monotonic()
    digits = load_digits()
    splits = [split_digits(digits, rows=scale.rows, seed=seed) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    rows, tried = [], 0
    for name, method in METHODS.items():
        measure = cache(partial(_measure, stacked, keys, method=method, scale=scale))
        rows.append(_tune(name, measure))
        tried += measure.cache_info().misses
    return Claim(
        name=f"saf_digits-{scale.name}",
        paper="SAF and MESA on digits (arXiv:2205.14083)",
        setting=f"Every run: a perceptron of 64, {scale.hidden}, {scale.hidden} and 10 "
        f"units on {scale.rows} of scikit-learn's 1797 digits, {scale.epochs} epochs "
        f"of SGD with momentum {MOMENTUM:g} and a cosine schedule, {BATCH} rows a "
        "step; all other digits are held out. The peak rate of each method is the best "
        "of a grid that doubles and is refined once around its best, by the mean "
        "held-out loss over all seeds, with worse ones on either side; errors are at "
        f"the rate that is best for them, found alike. The divergence has "
        f"temperature {TEMPERATURE:g} and weight {METHODS['SAF'].saf:g} (SAF, "
        f"{LAG} epochs back) or {METHODS['MESA'].mesa:g} (MESA, decay {DECAY:g}), from "
        f"epoch {START} on. Rises are of the training loss, at a distance of "
        f"{RADIUS:g} up the gradient and of {RANDOM_RADIUS:g} at random, in "
        "thousandths of a nat (mnats).",
        rows=tuple(rows),
        findings=judge(rows, COMPARISONS),
        cost=Cost(
            runs=tried * seeds,
            tokens=0,
            seconds=math.ceil(time.monotonic() - began),
            machines=(f"{describe_machine()}, jax {jax.__version__}",),
        ),
        swept=LOSS,
    )


def _tune(
    name: str, measure: Callable[[float], Mapping[str, tuple[float, ...]]]
) -> Row:
    """Tune a method by its loss, and once more by its errors for these alone."""

    def measure_errors(rate: float) -> Mapping[str, tuple[float, ...]]:
        return {ERROR: measure(rate)[ERROR]}

    row = tune_by_mean(name, measure, rates=RATES)
    fewest = tune_by_mean(name, measure_errors, rates=RATES)
    return row._replace(measures=row.measures | fewest.measures)


def _measure(
    splits: Split,
    keys: jax.Array,
    rate: float,
    *,
    method: Method,
    scale: DigitsScale,
) -> Mapping[str, tuple[float, ...]]:
    """Train a method on every split at a rate; NaN where it diverged."""
    found = _train_and_judge(splits, keys, rate, method=method, scale=scale)
    return {name: tuple(map(float, found[name])) for name in MEASURES}


@partial(jax.jit, static_argnames=("method", "scale"))
def _train_and_judge(
    splits: Split, keys: jax.Array, rate: Any, *, method: Method, scale: DigitsScale
) -> dict[str, jax.Array]:
    """Train on every split at once, and measure what came out."""

    def train_and_judge(split: Split, key: jax.Array) -> dict[str, jax.Array]:
        return judge_params(split, train(split, key, rate, method=method, scale=scale))

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
