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
                     (.2 if there are none), from epoch 20 on, over ten epochs
    both             the compression's settings, and drops as many as there are wrong
    cleanlab         three filters of labels by networks trained on the other half, then
                     cross entropy on what is left

Co-teaching starts from networks trained without it and picks by the loss without
dropout, at the best k (anew every ten epochs), as the authors have it; it shows both
networks the same batch, as Han et al. have it (arXiv:1804.06872).

500 images and 50 epochs are a size at which cross entropy fits wrong labels by heart.
In a first measurement, with 2,000 images and 20 epochs, it did not, and the size was
changed for that reason alone; its outcome is on the page of the documentation.

Clean validation images stop every method before it fits the noise. Errors after all
epochs, with settings and rate chosen for them, show what happens if nothing does.
Squared errors of probabilities split into

    mean over seeds |p_s - y|^2 = |mean p - y|^2 + mean |p_s - mean p|^2
    (bias^2)                      (variance)

on test images that all seeds share. A seed is a draw of images, wrong labels,
initialisation and order, the same for every method.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.noisy_labels.draws import (
    BATCH,
    CLASSES,
    NOISES,
    PERIODS,
    Settings,
    Training,
    draw,
)
from lostjax.repro.papers.noisy_labels.training import (
    FEATURES,
    FILTERS,
    HIDDEN,
    MOMENTUM,
    train_choices,
)
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.tune import Grids, Tuning, use_whole_grid
from lostjax.sweep.cell_file import Cell

STRONG = "human 40 %", "symmetric 50 %"
"""Noise whose effect is looked into."""


BOTH = "nested dropout, co-teaching"


def error(noise: str) -> str:
    """Name the measure of test errors."""
    return f"{noise}: error, %"


def variance(noise: str) -> str:
    """Name the measure of the variance over seeds."""
    return f"{noise}: variance, %"


def squared_bias(noise: str) -> str:
    """Name the measure of the squared bias."""
    return f"{noise}: squared bias, %"


def validation(noise: str) -> str:
    """Name the measure that is tuned by."""
    return f"{noise}: validation error, %"


def last_error(noise: str) -> str:
    """Name the measure of test errors after all epochs."""
    return f"{noise}: error after all epochs, %"


def last_validation(noise: str) -> str:
    """Name the measure that errors after all epochs are tuned by."""
    return f"{noise}: validation error after all epochs, %"


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


def train_seeds(
    config: Training, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Measure seeds, each among all of its block, over which the variance is taken."""
    assert learning_rate is not None
    places = [divmod(seed, config.block) for seed in seeds]
    blocks = {
        block: measure_block(config, learning_rate, block)
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
    drawn = draw(training.without_method(), block)
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


RATES = (0.005, 0.015, 0.045, 0.135)


EXPERIMENT = Experiment(
    paper="Compressing Features for Learning with Noisy Labels (arXiv:2206.13140)",
    scales={
        "smoke": Scale(
            Training(DIGITS, 100, 100, 100, epochs=1, block=2),
            RATES[2:],
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
