"""The temperature of a contrastive loss: uniform or tolerant representations.

Wang & Liu, "Understanding the Behaviour of Contrastive Loss", 2020, arXiv:2012.09740:
a low temperature makes representations uniform, and intolerant of images of one class;
a high one does the reverse; features are best in between. A loss without a temperature
is worse, if it does not keep the hard negatives alone. Their images and networks are
larger; here a small convolutional encoder sees Fashion-MNIST at half its size, without
labels, by two views of each image (`repro.problems.two_views`).

    t = 0.03 ... 2         `losses.info_nce_loss` at eight temperatures: four of the
                           paper's, and others between and outside
    hard, t = 0.3 ... 2    the same on the most similar tenth of the negatives
    simple                 `losses.simple_contrastive_loss`; the negatives weigh 1
                           together
    hard simple            the same on the most similar tenth
    shuffled               a control: t = .3, but positives are views of other images
    untrained              a control: the encoder as it is drawn

The error is a linear probe's, ridge regression on the features that the head reads,
fitted on the labels of the images that were trained on; a second probe reads the
normalised representation, of which uniformity and tolerance are. Settled before
anything was measured: the sizes, the tenth, and t = .3 as the temperature that
statements call good, since the paper's best lie near it. The ridge and the rate of Adam
are chosen by other images of the training set. A seed is a draw of images, of their
views and of the initialisation, the same for every method.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.problems.two_views import VIEWS, Training, build_run, draw
from lostjax.repro.rows import Row
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED, WITHOUT_RATE, Run

VALID, ERROR = "validation: probe error, %", "probe error, %"
SPHERE = "probe of the representation: error, %"
UNIFORMITY, TOLERANCE = "uniformity", "tolerance"
"""Names of measures; less uniformity is more uniform."""

TEMPERATURES = (0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 1.0, 2.0)
HARD_TEMPERATURES = (0.3, 1.0, 2.0)
HARD_SHARE = 0.1
SIMPLE, HARD_SIMPLE = "simple", "hard simple"
SHUFFLED, UNTRAINED = "shuffled", "untrained"


def name_method(temperature: float, *, hard: bool = False) -> str:
    """Name a method by its temperature."""
    return f"{'hard, ' if hard else ''}t = {temperature:g}"


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Name every method."""
    change = partial(dataclasses.replace, scale.config)
    return {
        **{name_method(t): change(temperature=t) for t in TEMPERATURES},
        **{
            name_method(t, hard=True): change(temperature=t, hard_share=HARD_SHARE)
            for t in HARD_TEMPERATURES
        },
        SIMPLE: change(),
        HARD_SIMPLE: change(hard_share=HARD_SHARE),
        SHUFFLED: change(temperature=0.3, shuffled=True),
        UNTRAINED: change(steps=0),
    }


def _compare() -> tuple[Comparison, ...]:
    rising = (0.07, 0.3, 0.7, 1.0, 2.0)
    found = []
    for measure, says in (
        (UNIFORMITY, "more uniform"),
        (TOLERANCE, "less tolerant"),
    ):
        for cold, hot in ((0.03, 0.07), *zip(rising, rising[1:], strict=False)):
            first, second = name_method(cold), name_method(hot)
            statement = f"{first} is {says} than {second}"
            found.append(Comparison(first, second, statement, measure))
    good = name_method(0.3)
    pairs = [(good, name_method(t)) for t in TEMPERATURES if t not in (0.3, 0.7)]
    pairs += [(good, SIMPLE), (HARD_SIMPLE, SIMPLE), (HARD_SIMPLE, good)]
    pairs += [(name_method(t, hard=True), name_method(t)) for t in HARD_TEMPERATURES]
    pairs += [(good, SHUFFLED), (good, UNTRAINED)]
    found += [
        Comparison(first, second, f"{first} errs less than {second}", ERROR)
        for first, second in pairs
    ]
    return tuple(found)


def train(config: Training, rate: float | None, seed: int) -> dict[str, float]:
    """Train an encoder on one draw and measure it."""
    run = build_run(config.without_temperature())
    scores = run(draw(_data_of(config), seed), rate or 0.0, config.temperature)
    return {
        VALID: 100 * float(scores.valid_error),
        ERROR: 100 * float(scores.error),
        SPHERE: 100 * float(scores.sphere_error),
        UNIFORMITY: float(scores.uniformity),
        TOLERANCE: float(scores.tolerance),
    }


def _data_of(config: Training) -> Training:
    """Leave what data are drawn by, so that methods share them."""
    return Training(config.data, config.rows, config.validation_rows, config.test_rows)


def find_row(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
) -> Row:
    """Tune on the first seed what is trained."""
    if method == UNTRAINED:
        return WITHOUT_RATE.find_row(
            run, method=method, rates=(), seeds=seeds, measures=measures
        )
    return TUNE_ON_FIRST_SEED.find_row(
        run, method=method, rates=rates, seeds=seeds, measures=measures
    )


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config = scale.config
    widths = ", ".join(map(str, config.widths))
    return (
        f"Every run: a network of convolutions with {widths} channels and a "
        f"linear head of {config.features} features, {config.steps} steps of Adam with "
        f"a cosine schedule on {config.batch} pairs of views of {config.rows:,} images "
        f"of {config.data}, with {VIEWS} views each. The rate is tuned by the probe's "
        f"error on {config.validation_rows:,} other images; errors, uniformity and "
        f"tolerance are of {config.test_rows:,} test images. Hard: the most similar "
        f"{HARD_SHARE:.0%} of the negatives."
    )


RATES = (2e-3, 4e-3, 8e-3)

EXPERIMENT = Experiment(
    paper="Understanding the Behaviour of Contrastive Loss (arXiv:2012.09740)",
    scales={
        "smoke": Scale(
            Training(DIGITS, 600, 300, 300, steps=20, batch=32, widths=(8, 16)),
            RATES,
            (name_method(0.3), SIMPLE, UNTRAINED),
        ),
        "small": Scale(Training(), RATES),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=(VALID, ERROR, SPHERE, UNIFORMITY, TOLERANCE),
    train=each_seed(train),
    tuning=TUNE_ON_FIRST_SEED._replace(find_row=find_row),
    setting=describe,
    interval=PAIRED,
)
