"""Few-shot learning: proto-triplets and neighbourhoods against prototypical networks.

Mendez-Ruiz et al., "SuSana Distancia is all you need: Enforcing class separability in
metric learning via two novel distance-based loss functions for few-shot image
classification", 2023, arXiv:2305.09062: both losses classify new classes better than
metric-based methods such as prototypical networks (Snell et al., arXiv:1703.05175),
also those of another set than was trained on. Its images are not to be had in packages;
here are two sets that are:

    glyphs        168 letters in 16 faces (`data.load_glyphs`)
    pictograms    OpenMoji in grey (`data.load_openmoji`): a class is one of 50
                  subgroups, such as animal-bird, with one pictogram of each family

Images are moved by up to 2 of their 16 pixels, with noise of deviation .1: a first try
found the raw pixels of centred letters as good as what was learnt.

A perceptron embeds 16 x 16 pixels. It is trained by episodes of 10 classes with the
shots that it is judged by and 10 queries, by the mean of some of three losses: cross
entropy of negative squared distances to prototypes (a prototypical network),
`losses.proto_triplet_loss`, and `losses.set_icnn_loss` of the queries. It is judged on
600 episodes of 5 classes that it has not seen, of its own set and of the other.

Settled before these images were judged on their seeds: 3/5 of the classes train, 1/5
choose, 1/5 are judged; the cases of one letter stay together. Every method has the same
3 learning rates of Adam and 5 places to stop, and is judged where the classes of its
own set that choose are classified best. A seed is a split with its episodes, the same
for every method. Controls: the network as it starts, and the pixels.
"""

import dataclasses
from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.few_shot.sets import WAY
from lostjax.repro.papers.few_shot.training import (
    OTHER,
    OWN,
    WIDTH,
    Study,
    list_places,
    train_seeds,
)
from lostjax.repro.tune import WITHOUT_RATE

PLAIN, TRIPLET, ICNN = "prototypical network", "proto-triplet", "ICNN"


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    change = partial(dataclasses.replace, scale.config)
    entropy, triplet, icnn = "cross entropy", "proto-triplet", "ICNN"
    return {
        PLAIN: change(terms=(entropy,)),
        TRIPLET: change(terms=(triplet,)),
        ICNN: change(terms=(icnn,)),
        f"{PLAIN} + {TRIPLET}": change(terms=(entropy, triplet)),
        f"{PLAIN} + {ICNN}": change(terms=(entropy, icnn)),
        "all three": change(terms=(entropy, triplet, icnn)),
        "untrained": change(terms=()),
        "pixels": change(terms=(), features=0),
    }


def _compare(first: str, second: str, measure: str = OWN) -> Comparison:
    what = {OWN: "", OTHER: ", on the other set"}.get(measure, f", {measure}")
    return Comparison(first, second, f"{first} is better than {second}{what}", measure)


PLACES = list_places(Study.sets)
"""The sets and shots, and from set to set."""

COMPARISONS = (
    _compare(TRIPLET, PLAIN),
    _compare(f"{PLAIN} + {TRIPLET}", PLAIN),
    _compare(f"{PLAIN} + {ICNN}", PLAIN),
    _compare("all three", PLAIN),
    _compare(ICNN, PLAIN),
    *(_compare(TRIPLET, PLAIN, measure) for measure in PLACES[:4]),
    *(_compare("all three", PLAIN, measure) for measure in PLACES[:4]),
    _compare(TRIPLET, PLAIN, OTHER),
    _compare("all three", PLAIN, OTHER),
    _compare(PLAIN, "untrained"),
    _compare(PLAIN, "pixels"),
    _compare(PLAIN, "pixels", OTHER),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    study = scale.config
    one, two = study.sets
    return (
        f"Sets: {one} and {two}, 16 x 16 pixels in grey, moved by up to 2, with noise. "
        f"Every run: a perceptron with {study.hidden} hidden units and "
        f"{study.features} features, {study.steps} episodes of 10 classes. "
        "Measures are errors in percent over 600 episodes of "
        f"{WAY} classes that were not trained on; {one} to {two}: trained on the "
        f"first, judged on the second. {WIDTH}: half the width of an error's interval "
        "over its episodes, the largest of all."
    )


EXPERIMENT = Experiment(
    paper="SuSana Distancia is all you need (arXiv:2305.09062)",
    scales={
        "smoke": Scale(
            Study(sets=("latin", "others"), hidden=16, features=8, steps=10),
            methods=(PLAIN, TRIPLET, "pixels"),
        ),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(OWN, OTHER, *PLACES, WIDTH),
    train=train_seeds,
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    setting=describe,
)
