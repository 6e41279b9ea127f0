"""Dice losses for rare entities, on tweets.

Li et al., "Dice Loss for Data-imbalanced NLP Tasks", 2019, arXiv:1911.02855, claims
that dice losses reach a higher F1 than cross entropy and focal loss in named entity
recognition, whose words are in no entity for the most part. Here words of tweets
(`data.load_tweets`) in names of persons, places, facilities and companies are each told
from all others: .45 to 1.4 % of the words (`repro.problems.rare_tags`). F1 is of words,
not of whole names. A seed is a draw of tweets, which all methods share, and of
everything random; a tweet that was sent twice is there once.

Methods and their settings are those of the Brown corpus (`papers.dice`), and two more:
the authors fine-tune models that find most entities already, so that here a dice loss
follows on cross entropy, each for half of the steps.

    cross entropy, then dice
    cross entropy, then set dice

Size and rates were settled on tweets that choose, without a look at those that test.
"""

import dataclasses

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED
from lostjax.repro.problems.rare_tags import (
    ENTITIES,
    HALF,
    TUNED,
    TWEETS,
    VALID,
    Tagging,
    list_measures,
)
from lostjax.repro.problems.tag_losses import (
    COMPARISONS,
    build_tagging_methods,
    compare,
    describe_tagging,
    train,
)
from lostjax.repro.runs import each_seed

FIRST = "cross entropy"


def build_methods(scale: Scale[Tagging]) -> dict[str, Tagging]:
    """Name every method."""
    found = build_tagging_methods(scale.config)
    after = {
        f"{FIRST}, then {name}": dataclasses.replace(found[name], first=FIRST)
        for name in ("dice", "set dice")
    }
    return found | after


AFTER = tuple(
    compare(f"{FIRST}, then {name}", second, what)
    for name in ("dice", "set dice")
    for second, what in ((FIRST, TUNED), (FIRST, HALF), ("weighted", TUNED))
)

RATES = (16e-3, 32e-3, 64e-3)

EXPERIMENT = Experiment(
    paper="Dice Loss for Data-imbalanced NLP Tasks (arXiv:1911.02855), entities",
    scales={
        "smoke": Scale(
            Tagging(
                data=TWEETS,
                tags=ENTITIES,
                train_texts=100,
                valid_texts=50,
                test_texts=50,
                steps=30,
                rows=128,
            ),
            RATES,
            ("cross entropy", "set dice", "cross entropy, then set dice"),
        ),
        "small": Scale(
            Tagging(
                data=TWEETS,
                tags=ENTITIES,
                train_texts=1295,
                valid_texts=500,
                test_texts=500,
                steps=300,
                rows=512,
            ),
            RATES,
        ),
    },
    methods=build_methods,
    comparisons=(*COMPARISONS, *AFTER),
    measures=(VALID, *list_measures(ENTITIES)),
    train=each_seed(train),
    setting=lambda scale: describe_tagging(scale.config),
    interval=PAIRED,
)
