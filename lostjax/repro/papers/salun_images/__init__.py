"""SalUn on a diffusion model: a class that is no longer drawn.

Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation", 2023, arXiv:2310.12508: a conditional
diffusion model that answers a forgotten class as another one, in its salient weights
alone, forgets it and draws the others as before. Their models draw CIFAR-10 and larger
images; here a residual perceptron (`nn.Denoiser`) draws 28 x 28 garments.

    nothing              the model as it is
    retrained            another one, trained without the class
    fine-tuning          trains on what is retained
    gradient ascent      ascends the denoising loss of what is forgotten
    gradient difference  the same, and descends that of what is retained
    other classes        answers the class as another one, drawn anew, and descends the
                         denoising loss of what is retained
    SalUn .5             the same in the half of the weights that is most salient
    random mask .5       a control: half the weights, drawn at random

A classifier (`repro.papers.salun_images.worlds`) looks at what is drawn: images asked
of the forgotten class that it takes for that class; images asked of the others that it
does not take for theirs; and the Frechet distance of these to real ones, on its
features. Less is better of all three. Losses of both sets weigh alike (the authors'
code has .001 for what is retained), every method takes the same steps of Adam, with
gradients clipped to a norm of 1, as there. The rate is tuned on the first seed by the
mean of the first two measures for another class than the one that is judged. A seed is
a draw of images and both classes, the start, order and noise; methods share them.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.salun_images.forgetting import (
    ANY,
    ASCEND,
    DIFFER,
    DISTANCE,
    NOTHING,
    RETRAIN,
    SALIENT,
    STILL,
    TUNE,
    TUNING,
    WRONG,
    Unlearning,
    train,
)
from lostjax.repro.papers.salun_images.worlds import SIGNALS_N, World, train_judge
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.rows import Row
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED, WITHOUT_RATE, Run

SALUN, LABELS, RANDOM_MASK = "SalUn .5", "other classes", "random mask .5"
RETRAINED, FINE_TUNING = "retrained", "fine-tuning"
ASCENT, DIFFERENCE = "gradient ascent", "gradient difference"
UNRATED = NOTHING, RETRAINED


def build_methods(scale: Scale[Unlearning]) -> dict[str, Unlearning]:
    """Name every method."""
    change = partial(dataclasses.replace, scale.config)
    return {
        NOTHING: change(way=NOTHING),
        RETRAINED: change(way=RETRAIN),
        FINE_TUNING: change(way=TUNE),
        ASCENT: change(way=ASCEND),
        DIFFERENCE: change(way=DIFFER),
        LABELS: change(),
        SALUN: change(mask=SALIENT),
        RANDOM_MASK: change(mask=ANY),
    }


def _compare() -> tuple[Comparison, ...]:
    others = (FINE_TUNING, ASCENT, DIFFERENCE, LABELS, RANDOM_MASK)
    says = {
        STILL: "draws less of the forgotten class",
        WRONG: "draws other classes more rightly",
        DISTANCE: "draws other classes nearer to real ones",
    }
    found = [
        Comparison(SALUN, other, f"{SALUN} {says[measure]} than {other}", measure)
        for measure in (STILL, WRONG, DISTANCE)
        for other in (*others, RETRAINED)
    ]
    found += [
        Comparison(first, NOTHING, f"{first} {says[STILL]} than {NOTHING}", STILL)
        for first in (SALUN, RETRAINED)
    ]
    return tuple(found)


def find_row(
    run: Run,
    *,
    method: str,
    rates: Sequence[float],
    seeds: int,
    measures: Sequence[str],
) -> Row:
    """Tune what has a rate on the first seed."""
    given: dict[str, Any] = {"method": method, "seeds": seeds, "measures": measures}
    if method in UNRATED:
        return WITHOUT_RATE.find_row(run, rates=(), **given)
    return TUNE_ON_FIRST_SEED.find_row(run, rates=rates, **given)


def describe(scale: Scale[Unlearning]) -> str:
    """Describe the setting."""
    config, world = scale.config, scale.config.world
    return (
        f"Every run: a residual perceptron of width {world.width}, trained in "
        f"{world.steps:,} steps on {world.rows:,} images of {world.data}, forgets one "
        f"class in {config.steps} steps, or is retrained. {config.drawn} images of the "
        f"class and as many of the others are drawn in {len(SIGNALS_N)} steps each; a "
        f"classifier that misses {train_judge(world.data).error:.1f} % of real test "
        "images judges them."
    )


RATES = (1e-4, 2e-4, 4e-4)

EXPERIMENT = Experiment(
    paper="SalUn, image generation (arXiv:2310.12508)",
    scales={
        "smoke": Scale(
            Unlearning(World(DIGITS, 1000, 64, steps=300), steps=20, drawn=90),
            RATES,
            (NOTHING, RETRAINED, LABELS, SALUN),
        ),
        "small": Scale(Unlearning(), RATES),
    },
    methods=build_methods,
    comparisons=_compare(),
    measures=(TUNING, STILL, WRONG, DISTANCE),
    train=each_seed(train),
    tuning=TUNE_ON_FIRST_SEED._replace(find_row=find_row),
    setting=describe,
    interval=PAIRED,
    seeds=3,
)
