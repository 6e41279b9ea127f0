"""Essential sparsity of a pre-trained encoder: MiniLM, pruned and then fine-tuned.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805: the smallest weights of a
pre-trained model can be removed at once, and the rest fine-tuned as if nothing were
missing, up to 20 to 50 %. Their models are BERT, OPT and vision transformers; here
MiniLM's encoder learns five topics from 200 articles and is tested on 200 others.

    whole, 20 % ... 80 %    the smallest weights of the layers' matrices are removed,
                            as in the paper: not embeddings, biases or norms
    random, 40 %            a control; one mask for all seeds

Otherwise than in the paper, only the last layer and the head are fine-tuned: on a CPU
all six take long (the scale `full`, at the best of .0001, .0002 and .0004). All rows
are fine-tuned alike, as in the paper: one pass over the texts, AdamW with weight decay
.01 and a rate that falls linearly to 0; embeddings stay as they are. Settled before
anything was measured: all of that, the sparsities, one point of error as what may be
lost (the paper's epsilon), and the head's factor on the rate. The rate is the best of
.0002, .0004, .0008 and .0016 for the whole encoder by the cross entropy of 100 other
articles, on the draw of seed 0. A seed is a draw of articles and their order, the same
for every row, from 600.
"""

import dataclasses
from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.encoder_sparsity.tuning import HEAD_RATE, Tuned, fine_tune
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE

ERROR, LOSS = "test error, %", "cross entropy, nats"
MORE_ERROR = "error beyond whole's, points"
WHOLE, RANDOM = "whole", "random, 40 %"
SPARSITIES = (0.2, 0.4, 0.6, 0.8)
ALLOWED = 1.0
"""Points of error that may be lost."""


def name_method(sparsity: float) -> str:
    """Name a row by the share that is removed."""
    return f"{100 * sparsity:.0f} %"


def measure(config: Tuned, rate: float | None, seed: int) -> dict[str, float]:
    """Fine-tune a seed's pruned encoder, and compare it with the whole one."""
    del rate
    found = fine_tune(config, seed)
    whole = fine_tune(dataclasses.replace(config, sparsity=0.0, mask="smallest"), seed)
    return {
        ERROR: 100 * found.share,
        LOSS: found.loss,
        MORE_ERROR: 100 * (found.share - whole.share),
    }


def build_methods(scale: Scale[Tuned]) -> dict[str, Tuned]:
    """Build a row for each mask."""
    make = partial(dataclasses.replace, scale.config)
    return {
        WHOLE: scale.config,
        **{name_method(each): make(sparsity=each) for each in SPARSITIES},
        RANDOM: make(mask="random", sparsity=0.4),
    }


COMPARISONS = (
    *(
        Comparison(
            name_method(each),
            ALLOWED,
            f"without the smallest {name_method(each)} it errs less than one point "
            "more",
            MORE_ERROR,
        )
        for each in SPARSITIES
    ),
    *(
        Comparison(
            WHOLE, name_method(each), f"{name_method(each)} less has a cost", LOSS
        )
        for each in SPARSITIES
    ),
    Comparison(name_method(0.4), RANDOM, "40 % are better removed by size", ERROR),
    Comparison(name_method(0.4), RANDOM, "so they are by cross entropy", LOSS),
)


def describe(scale: Scale[Tuned]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        "MiniLM-L6 (all-MiniLM-L6-v2; 10.6 million weights in the matrices of its "
        f"layers), pruned; then the last {config.layers} of its layers and a head are "
        f"fine-tuned once over {config.texts} BBC articles of {config.length} tokens "
        f"in batches of {config.batch} at a peak rate of "
        f"{config.rate:g} ({HEAD_RATE} times that for the head), and tested on "
        f"{config.test_texts} others. Five topics; the share of the largest is 24 %."
    )


EXPERIMENT = Experiment(
    paper="The Emergence of Essential Sparsity (arXiv:2306.03805): MiniLM",
    scales={
        "smoke": Scale(
            Tuned(
                articles=24,
                texts=8,
                validation_texts=4,
                test_texts=8,
                length=8,
                batch=4,
            ),
            methods=(WHOLE, name_method(0.4)),
        ),
        "small": Scale(Tuned()),
        "full": Scale(Tuned(layers=6, batch=16, rate=4e-4)),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(ERROR, LOSS, MORE_ERROR),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
)
