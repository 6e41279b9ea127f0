"""Dice losses for rare labels, on rare parts of speech of the Brown corpus.

Li et al., "Dice Loss for Data-imbalanced NLP Tasks", 2019, arXiv:1911.02855, claims
that dice losses, which are soft F1 scores, reach a higher F1 than cross entropy and
focal loss if positives are rare: in part-of-speech tagging, entities, reading
comprehension and paraphrases. Here four tags that .05 to .75 % of the words have are
each told from all others (`repro.problems.rare_tags`). A seed is a draw of texts, which
all methods share, and of everything random.

Methods and their settings are those of `repro.problems.tag_losses`. Each chooses its
learning rate, and for each tag its setting and its threshold, by F1 on texts that are
neither trained on nor tested on.
"""

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED
from lostjax.repro.problems.rare_tags import VALID, Tagging, list_measures
from lostjax.repro.problems.tag_losses import (
    COMPARISONS,
    build_tagging_methods,
    describe_tagging,
    train,
)
from lostjax.repro.runs import each_seed

RATES = (2e-3, 4e-3, 8e-3)

EXPERIMENT = Experiment(
    paper="Dice Loss for Data-imbalanced NLP Tasks (arXiv:1911.02855)",
    scales={
        "smoke": Scale(
            Tagging(train_texts=4, valid_texts=2, test_texts=2, steps=30, rows=128),
            RATES,
            ("cross entropy", "set dice"),
        ),
        "small": Scale(Tagging(), RATES),
    },
    methods=lambda scale: build_tagging_methods(scale.config),
    comparisons=COMPARISONS,
    measures=(VALID, *list_measures(Tagging().tags)),
    train=each_seed(train),
    setting=lambda scale: describe_tagging(scale.config),
    interval=PAIRED,
)
