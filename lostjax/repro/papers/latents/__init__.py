"""Mean and sampled representations of variational autoencoders, and passive variables.

Bonheme & Grzes, "Be More Active! Understanding the Differences between Mean and Sampled
Representations of Variational Autoencoders", 2021, arXiv:2109.12679: the variables of
the mean representation are more correlated than those of the sampled one only because
of passive variables, which are correlated in the means and noise in the samples; in the
others both agree. Here a convolutional autoencoder of Fashion-MNIST has 10 latent
variables and beta of 1, 2, 4 and 8. 10,000 images that it has not seen are read.

    all, not passive, passive    which variables, by the paper's thresholds
    mean, sampled                the representation
    shuffled                     means, the variables shuffled apart: the control

"Active" variables by the paper's thresholds are rare here, so that the used ones are
taken together: active and mixed. The gap of a row is its total correlation minus that
of the samples of the same variables. What dropping costs is read by a ridge classifier
of scaled variables. Adam's rate was settled before by the loss of another seed at beta
1: the best of .001, .002 and .004; that seed's representations were seen. 3,000 steps
are what the time allows. A seed is an initialisation, a draw of images and an
order; all rows of a beta read the same autoencoders.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from lostjax import analysis
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.latents.codes import (
    BATCH,
    Training,
    choose,
    classify,
    encode,
)
from lostjax.repro.problems.images import DIGITS
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE

RATE = 4e-3
BETAS = 1.0, 2.0, 4.0, 8.0
TOTAL = "total correlation, nats"
GAP = "gap to the samples, nats"
LEFT = "share of the gap of all variables"
PAIRS = "mutual information a pair, nats"
ERROR = "classifier's error, %"
COST = "error more than with all, points"
COUNT = "variables"
VARIABLES = "all", "not passive", "passive"


def build_methods(scale: Scale[Training]) -> dict[str, Training]:
    """Name every representation of every autoencoder."""
    found = {}
    for beta in BETAS:
        of_beta = dataclasses.replace(scale.config, beta=beta)
        for variables in VARIABLES:
            for representation in ("mean", "sampled"):
                found[_name(beta, representation, variables)] = dataclasses.replace(
                    of_beta, representation=representation, variables=variables
                )
        found[_name(beta, "shuffled", "all")] = dataclasses.replace(
            of_beta, representation="shuffled"
        )
    return found


def _name(beta: float, representation: str, variables: str) -> str:
    return f"beta {beta:g}: {representation}, {variables}"


def _compare() -> Iterator[Comparison]:
    for beta in BETAS:
        mean, sampled, used = (
            _name(beta, "mean", "all"),
            _name(beta, "sampled", "all"),
            _name(beta, "mean", "not passive"),
        )
        said = f"beta {beta:g}: "
        yield Comparison(sampled, mean, said + "samples depend less than means", TOTAL)
        yield Comparison(
            used, mean, said + "the gap is smaller without passive variables", GAP
        )
        yield Comparison(
            used, 0.1, said + "less than a tenth of the gap is left then", LEFT
        )
        yield Comparison(
            _name(beta, "sampled", "passive"),
            _name(beta, "mean", "passive"),
            said + "passive variables depend less in samples than in means",
            PAIRS,
        )
        yield Comparison(
            used, 1.0, said + "means without them classify within a point of all", COST
        )
        yield Comparison(
            _name(beta, "sampled", "not passive"),
            1.0,
            said + "samples without them classify within a point of all",
            COST,
        )
        yield Comparison(
            sampled,
            _name(beta, "shuffled", "all"),
            said + "control: samples depend less than means shuffled apart",
            TOTAL,
        )


def read_codes(
    training: Training, learning_rate: float | None, seed: int
) -> dict[str, float]:
    """Measure one representation of one autoencoder."""
    assert learning_rate is None
    codes = encode(training, learning_rate=RATE, seed=seed)

    def select(representation: str, variables: str) -> np.ndarray:
        view = dataclasses.replace(
            training, representation=representation, variables=variables
        )
        return choose(codes, view, seed=seed)

    own = training.representation, training.variables
    z_BK = select(*own)
    gap = _total(z_BK) - _total(select("sampled", own[1]))
    whole = _total(select("mean", "all")) - _total(select("sampled", "all"))
    error = classify(z_BK, codes.labels_B)
    return {
        TOTAL: _total(z_BK),
        GAP: gap,
        LEFT: gap / whole,
        PAIRS: _pairs(z_BK),
        ERROR: error,
        COST: error - classify(select(own[0], "all"), codes.labels_B),
        COUNT: z_BK.shape[1],
    }


def _total(z_BK: np.ndarray) -> float:
    """Compute the total correlation; 0 of fewer than two variables."""
    if z_BK.shape[1] < 2:
        return 0.0
    return analysis.gaussian_total_correlation(np.cov(z_BK, rowvar=False))


def _pairs(z_BK: np.ndarray) -> float:
    """Compute the mean mutual information of pairs; 0 if there are none."""
    if z_BK.shape[1] < 2:
        return 0.0
    information_KK = analysis.mutual_information_matrix(z_BK)
    return float(information_KK[np.triu_indices(z_BK.shape[1], k=1)].mean())


def describe(scale: Scale[Training]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every autoencoder: convolutions of {' and '.join(map(str, config.widths))} "
        f"channels, {config.latents} latent variables, {config.steps:,} steps of Adam "
        f"at {RATE:g} on {BATCH} of {config.rows:,} images of {config.data}; "
        f"{config.judged:,} others are read, and half of them train a ridge "
        "classifier. Means and samples have the same variables of the same "
        "autoencoders."
    )


EXPERIMENT = Experiment(
    paper="Be More Active! Mean and Sampled Representations of VAEs (arXiv:2109.12679)",
    scales={
        "smoke": Scale(
            Training(DIGITS, 1000, 500, latents=4, widths=(2, 2), hidden=8, steps=50),
            methods=tuple(
                _name(1.0, representation, "all")
                for representation in ("mean", "sampled", "shuffled")
            ),
        ),
        "small": Scale(Training(steps=3000)),
    },
    methods=build_methods,
    comparisons=tuple(_compare()),
    measures=(TOTAL, GAP, LEFT, PAIRS, ERROR, COST, COUNT),
    train=each_seed(read_codes),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    setting=describe,
)
