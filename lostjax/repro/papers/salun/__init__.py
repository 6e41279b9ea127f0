"""SalUn on classifiers: forgetting by the weights that examples ask to change.

Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation", 2023, arXiv:2310.12508: random labels that
train only the most salient weights come nearer to retraining without the forgotten
than other ways, at .2 % for a tenth of CIFAR-10. Those images are not at hand; here a
perceptron forgets Fashion-MNIST at half its size, a tenth at random or one class.

    nothing            the classifier as it is
    fine-tuning        trains on what is retained
    gradient ascent    ascends the loss of what is forgotten
    gradient difference     the same, and descends that of what is retained
    random labels      trains on random labels of the forgotten, redrawn in every step
    SalUn .1, .3, .5   the same in the most salient share of the weights
    soft SalUn         the same in all, with soft thresholds; the share that returns
                       falls from .5 to 0
    random mask .5     a control: half the weights, drawn at random
    retrained anew     another retrained classifier, from another start: no way to
                       forget can be expected to come nearer

The gap is the mean of four differences to the retrained classifier of the same start:
of the errors on forgotten, retained and test images, and of the share of the forgotten
that an attack takes for images that were not trained on (the threshold of confidence
in the true class that tells retained from test images best; the authors' support
vector machine reads the same number). Every example counts alike, forgotten or
retained. Settled before anything was measured: sizes, epochs, and grids of rates. Rates
are chosen by the gap to a retrained classifier on other sets to forget, of the same
kind: nobody could choose them so in use, which is the same advantage to all. A seed is
a draw of images, initialisation, order, and of what is forgotten, the same for every
method.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.salun.forgetting import (
    ANEW,
    ANY,
    ASCEND,
    DIFFER,
    GAP,
    NOTHING,
    SALIENT,
    SCORES,
    TUNE,
    TUNING,
    Unlearning,
    name,
    train_seeds,
)
from lostjax.repro.papers.salun.worlds import KINDS, World
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.rows import Row
from lostjax.repro.tune import WITHOUT_RATE, Grids, Run, Tuning, use_whole_grid
from lostjax.sweep.cell_file import Cell

FRACTIONS = (0.1, 0.3, 0.5)
FINE_TUNING, ASCENT = "fine-tuning", "gradient ascent"
DIFFERENCE, LABELS = "gradient difference", "random labels"
SOFT, RANDOM_MASK = "soft SalUn", "random mask .5"
UNRATED = NOTHING, ANEW


def name_salun(fraction: float) -> str:
    """Name SalUn by the share of the weights that move."""
    return f"SalUn {fraction:g}".replace("0.", ".")


def build_methods(scale: Scale[Unlearning]) -> dict[str, Unlearning]:
    """Name every method."""
    change = partial(dataclasses.replace, scale.config)
    return {
        NOTHING: change(way=NOTHING),
        FINE_TUNING: change(way=TUNE),
        ASCENT: change(way=ASCEND),
        DIFFERENCE: change(way=DIFFER),
        LABELS: change(),
        **{name_salun(each): change(mask=SALIENT, fraction=each) for each in FRACTIONS},
        SOFT: change(soft=0.5),
        RANDOM_MASK: change(mask=ANY),
        ANEW: change(way=ANEW),
    }


def _compare() -> tuple[Comparison, ...]:
    half = name_salun(0.5)
    pairs = [
        (half, other)
        for other in (LABELS, FINE_TUNING, ASCENT, DIFFERENCE, NOTHING, RANDOM_MASK)
    ]
    pairs += [(name_salun(each), LABELS) for each in FRACTIONS[:-1]]
    pairs += [(SOFT, LABELS), (LABELS, NOTHING), (half, ANEW)]
    return tuple(
        Comparison(
            first,
            second,
            f"{kind}: {first} is nearer to retraining than {second}",
            name(kind, GAP),
        )
        for kind in KINDS
        for first, second in pairs
    )


def summarise(grids: Grids) -> dict[str, tuple[float, ...]]:
    """Take each kind of forgetting at the rate that is best on other sets to forget."""
    found: dict[str, tuple[float, ...]] = {}
    for kind in KINDS:
        means = {
            rate: np.mean([grid[rate].measures[name(kind, TUNING)] for grid in grids])
            for rate in grids[0]
        }
        best = min(means, key=means.__getitem__)
        for measure in (TUNING, GAP, *SCORES):
            key = name(kind, measure)
            found[key] = tuple(grid[best].measures[key] for grid in grids)
    return found


def tuning_gap(cell: Cell) -> float:
    """Compute the mean gap on the sets that are tuned on."""
    return float(np.mean([cell.measures[name(kind, TUNING)] for kind in KINDS]))


GRID = use_whole_grid(summarise, loss=tuning_gap)


def find_row(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
) -> Row:
    """Tune what has a rate."""
    given: dict[str, Any] = {"method": method, "seeds": seeds, "measures": measures}
    if method in UNRATED:
        return WITHOUT_RATE.find_row(run, rates=(), **given)
    return GRID.find_row(run, rates=rates, **given)


def describe(scale: Scale[Unlearning]) -> str:
    """Describe the setting."""
    config, world = scale.config, scale.config.world
    return (
        f"Every run: a perceptron with {world.hidden} hidden units, trained for "
        f"{world.epochs} epochs on {world.rows:,} images of {world.data}, forgets "
        f"{world.forgotten:,} of them in {config.epochs} epochs. Test errors are of "
        f"{world.test_rows:,} images. Membership: the share of the forgotten that are "
        "taken for images that were not trained on."
    )


RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128, 0.256)
ASCENT_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
DIFFERENCE_RATES = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
"""Of gradient ascent, without and with what is retained."""

EXPERIMENT = Experiment(
    paper="SalUn, classification (arXiv:2310.12508)",
    scales={
        "smoke": Scale(
            Unlearning(World(DIGITS, 400, 300, hidden=32, epochs=10), epochs=2),
            RATES[2:5],
            (NOTHING, LABELS, name_salun(0.5), SOFT, ANEW),
        ),
        "small": Scale(
            Unlearning(),
            RATES,
            own_rates={ASCENT: ASCENT_RATES, DIFFERENCE: DIFFERENCE_RATES},
        ),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=tuple(name(kind, measure) for kind in KINDS for measure in (GAP, *SCORES)),
    train=train_seeds,
    tuning=Tuning(
        find_row,
        "For each kind of forgetting the rate has the least mean gap on other sets of "
        "that kind; the one shown is the best for both.",
    ),
    setting=describe,
    swept="tuning: mean gap, %",
    interval=PAIRED,
)
