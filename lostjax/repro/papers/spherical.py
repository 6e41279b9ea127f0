"""The Z-loss on a language model of whole words, where classes are many.

De Brebisson & Vincent, "The Z-loss: a shift and scale invariant classification loss
belonging to the Spherical Family", 2016, arXiv:1604.08859: it ranks words better than
log-softmax (by top-k errors) and than the other spherical losses, in a fraction of the
time, because the output layer's step does not depend on the classes. Their text is
far larger; here are presidents' speeches of 31,423 words
(`repro.problems.word_model`).

    softmax, SGD       a dense output layer, by autodiff and plain gradient descent
    ..., same time     the same with as many steps as fit into the time of the Z-loss'
    Z-loss ...         and two other losses: `optim.factored_output`, exact gradient
                       descent at a cost without the classes, stabilised every 500 steps
    other contexts     a control: the Z-loss with contexts of other words

The ratio of the times of a step, with the rest of the model, is that of
`benchmarks/word_model.py`: measured in turn in one process on two cores. The output
layer's rate is tuned for each method on speeches that are neither trained on nor tested
on. Two scales of the Z-loss, .1 and 1 with a shift of 10, are what an earlier trial on
other text had left; both are shown. Softmax by Adam, which a dense layer may use and a
factored one not, is not measured. The floor of the spherical softmax is its default.
A seed is an initialisation and an order of words.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.problems.speech_words import read_text
from lostjax.repro.problems.word_model import (
    SPHERICAL,
    STRETCH,
    TOP,
    Training,
    count_misses,
    train_words,
)
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED

VALID = "tuning: misses of the top 10, %"
MISSES = {k: f"misses of the top {k}, %" for k in TOP}
"""Names of the measures; the first is of the speeches that are tuned on."""

TIMES_AS_LONG = 7
"""A step with a dense softmax, in steps with the factored Z-loss: see
`benchmarks/word_model_xeon_2026-12-01.md`."""

SGD, CONTROL = "softmax, SGD", "other contexts"
SGD_BRIEF = "softmax, SGD, same time"
Z = tuple(name for name in SPHERICAL if name.startswith("Z-loss"))
OTHERS = tuple(name for name in SPHERICAL if name not in Z)


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Name every method."""
    make: Callable[..., Training] = partial(dataclasses.replace, scale.config)
    # Whole stretches, the nearest number.
    fewer = STRETCH * max(1, round(scale.config.steps / TIMES_AS_LONG / STRETCH))
    return {
        **{name: make(loss=name) for name in SPHERICAL},
        SGD: make(),
        SGD_BRIEF: make(steps=fewer),
        CONTROL: make(loss=Z[0], shuffled=True),
    }


def _compare() -> tuple[Comparison, ...]:
    pairs = [
        (first, second, k) for first in Z for second in (SGD, SGD_BRIEF) for k in TOP
    ]
    pairs += [(first, second, k) for first in Z for second in OTHERS for k in (1, 10)]
    pairs += [(Z[0], CONTROL, 10)]
    return tuple(
        Comparison(
            first,
            second,
            f"{first} misses less of the top {k} than {second}",
            MISSES[k],
        )
        for first, second, k in pairs
    )


def train(config: Training, rate: float | None, seed: int) -> dict[str, float]:
    """Train one model and measure it; NaN if it diverged."""
    assert rate is not None
    text = read_text(config.speeches)
    state = train_words(config, rate, seed)
    valid, test = (
        count_misses(config, state, words_N, scored=scored)
        for words_N, scored in (
            (text.valid_M, config.scored // 2),
            (text.test_L, config.scored),
        )
    )
    return {
        VALID: valid[TOP.index(10)],
        **dict(zip(MISSES.values(), test, strict=True)),
    }


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config = scale.config
    text = read_text(config.speeches)
    fewer = build_methods(scale)[SGD_BRIEF].steps
    return (
        f"Every run: {text.n_words:,} words, of which {len(text.train_N):,} places of "
        f"the speeches are trained on; embeddings of {config.embedding} of the last "
        f"{config.context} words, {config.hidden} hidden units, {config.rows} words a "
        f"step, {config.steps:,} steps, or {fewer:,} "
        f"(same time). Misses are of {config.scored:,} words of other speeches; the "
        "rate of the output layer is tuned by the misses of the top 10 in "
        f"{config.scored // 2:,} words of yet others."
    )


RATES = (16.0, 32.0, 64.0)

EXPERIMENT = Experiment(
    paper="The Z-loss (arXiv:1604.08859)",
    scales={
        "smoke": Scale(
            Training(steps=20, rows=16, hidden=8, speeches=4, scored=200),
            RATES,
            (SGD, Z[0]),
        ),
        "small": Scale(Training(), RATES),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=(VALID, *MISSES.values()),
    train=each_seed(train),
    tuning=TUNE_ON_FIRST_SEED,
    setting=describe,
    seeds=3,
)
