"""When does it end: hazards of bins against Cox and against regression of times.

Kitada et al., "Ad Creative Discontinuation Prediction with Multi-Modal Multi-Task
Neural Survival Networks", 2022, arXiv:2204.11588: a hazard-based loss predicts the
order of lifetimes better than the conventional regression of times; two heads, of short
and of long bins, serve both horizons; and examples are weighted by click-through rate.
The paper's advertisements are private. Here are five public sets, four with many events
and hdfail, disk drives of which 5.5 % fail. Columns that tell the outcome are left out
(`data.LEAKS`).

    hazard          `losses.hazard_loss` on 10 bins between tenths of the events' times
    two heads       half of it, and half of that on 10 bins between twentieths up to the
                    median; the short head ranks up to there, the long one ranks all
    pycox's         logistic hazard with censored times rounded down to an edge
    Cox             `losses.set_cox_loss` of a network, or of a linear map; survival by
                    Breslow's baseline
    regression      squared error of the log time, of all times or of events alone;
                    survival is a step at the predicted time
    clicks          hazard, weighted. No set has clicks: the levels of each set's
                    largest category draw exp(1.68 z), of which a fifth has four fifths,
                    and the fifth of the subjects with most is judged
    shuffled        hazard, learnt from other subjects' covariates: the control

Open Bandit's sample (PyPI obp) has real clicks, without lifetimes: 38 among 10,000
impressions of 80 items. Most items have none, so that its rates would weigh by chance.

3/5 of the subjects are trained on, and of the others at most 2,000 choose and as many
are judged. Width, steps and bins are the same for every method; they were settled after
trials of hazard, Cox and regression on three of the sets, whose judged subjects were
seen. Every method has the same grid of 3 rates and 2 decays of AdamW and may stop at 6
places; each measure is read where it was least on the subjects that choose. A seed is a
split, the same for every method.
"""

import dataclasses
from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.survival.training import (
    BATCH,
    BRIER,
    CLICKED,
    DISCORD,
    MEASURES,
    SHORT,
    Study,
    train_seeds,
)
from lostjax.repro.tune import WITHOUT_RATE


def build_methods(scale: Scale[Study]) -> dict[str, Study]:
    """Name every method."""
    change = partial(dataclasses.replace, scale.config)
    return {
        "hazard": change(method="hazard"),
        "hazard, two heads": change(method="two heads"),
        "hazard, short bins": change(method="short bins"),
        "logistic hazard, pycox's": change(method="pycox's"),
        "Cox, network": change(method="Cox"),
        "Cox, linear": change(method="Cox", hidden=0),
        "regression of times": change(method="regression"),
        "regression, events alone": change(method="events alone"),
        "hazard, clicks": change(method="hazard", clicks=True),
        "hazard, shuffled": change(method="hazard", shuffled=True),
    }


def _compare(first: str, second: str, measure: str, what: str = "") -> Comparison:
    what += " by the Brier score" if measure.startswith(BRIER) else ""
    return Comparison(first, second, f"{first} is better than {second}{what}", measure)


def _mean(measure: str) -> str:
    return f"{measure}, mean"


COMPARISONS = (
    _compare("hazard", "regression of times", _mean(DISCORD)),
    _compare("hazard", "regression, events alone", _mean(DISCORD)),
    _compare("hazard", "Cox, linear", _mean(DISCORD)),
    _compare("hazard", "Cox, network", _mean(DISCORD)),
    _compare("hazard", "logistic hazard, pycox's", _mean(DISCORD)),
    _compare("hazard", "regression of times", _mean(BRIER)),
    _compare("hazard", "Cox, linear", _mean(BRIER)),
    _compare("hazard", "Cox, network", _mean(BRIER)),
    _compare("hazard", "logistic hazard, pycox's", _mean(BRIER)),
    _compare("hazard, two heads", "hazard", _mean(DISCORD)),
    _compare("hazard, two heads", "hazard", _mean(SHORT), " up to the median"),
    _compare("hazard, two heads", "hazard, short bins", _mean(DISCORD)),
    _compare("hazard, two heads", "regression of times", _mean(DISCORD)),
    _compare("hazard, clicks", "hazard", _mean(CLICKED), " for the most clicked"),
    *(
        _compare("hazard", "regression of times", f"{DISCORD}, {name}", f" on {name}")
        for name in Study.sets
    ),
    *(
        _compare("hazard", "Cox, network", f"{DISCORD}, {name}", f" on {name}")
        for name in Study.sets
    ),
    Comparison(
        "hazard",
        "hazard, shuffled",
        "the control, which learns nothing, is worse",
        _mean(DISCORD),
    ),
)


def describe(scale: Scale[Study]) -> str:
    """Describe the setting."""
    study = scale.config
    return (
        f"Sets: {', '.join(study.sets)}; at most {study.most_rows:,} subjects of each, "
        "3/5 to train on, and of the others at most 2,000 to choose and as many to "
        f"judge. Every run: a perceptron with {study.hidden} hidden units (Cox, "
        f"linear: none), {study.steps} steps of AdamW on {BATCH} subjects; rate, decay "
        "and the place to stop are those that were best for the measure on those who "
        "choose. 1 - C: discordance, in percent; Brier: integrated over the inner "
        "tenths of the events' times, in percent; short: up to the median; clicked: "
        "the fifth with the largest weights; mean: over the sets. Regression's "
        "survival is a step, which the Brier score punishes."
    )


EXPERIMENT = Experiment(
    paper="Ad Creative Discontinuation Prediction (arXiv:2204.11588)",
    scales={
        "smoke": Scale(
            Study(sets=("made",), hidden=4, steps=60),
            methods=("hazard", "Cox, linear", "hazard, shuffled"),
        ),
        "small": Scale(Study()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(
        *(_mean(measure) for measure in MEASURES),
        *(f"{measure}, {name}" for measure in (DISCORD, BRIER) for name in Study.sets),
    ),
    train=train_seeds,
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    setting=describe,
)
