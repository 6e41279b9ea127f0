"""Small-scale proxies of instabilities: what makes the learning rate matter less.

Wortsman et al., "Small-scale proxies for large-scale Transformer training
instabilities", 2023, arXiv:2309.14322. Large models break at learning rates that small
ones bear; small ones break alike at larger rates. Hence its measure, of one model
trained at rates over orders of magnitude, l0 the loss of the untrained model:

    sensitivity = mean over rates of min(loss, l0) - least loss

Its claims: normalised queries and keys (qk-norm) lower it and keep attention logits
small; a penalty on the squared log-partition keeps log Z near 0; a longer warm-up
lowers it; so does weight decay that does not grow with the rate (independent decay)
against decay that does (ordinary).

Nothing is tuned: the grid is the measurement, and every seed has a sensitivity of its
own. The paper's rates are 3e-4 to 3e-1. Those below 3e-3 are left out: in some hundred
steps they end before they learnt, and what is compared here does not differ there.
"""

from functools import partial

import numpy as np

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import describe_runs
from lostjax.repro.tune import Grids, use_whole_grid
from lostjax.sweep.cells import PARAMETERS
from lostjax.sweep.grid import (
    INITIAL_LOSS,
    cap_loss,
    measure_initial_loss,
    measure_sensitivity,
)
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    StabilityConfig,
    TrainConfig,
)
from lostjax.train.trial import Trial

SENSITIVITY = "sensitivity, nats"
BEST_LOSS = "best held-out loss, nats"
LOGIT = "log10 of the largest attention logit, largest rate"
LOG_Z = "size of mean log Z, largest rate"
"""Names of a row's measures."""
LARGEST_LOGIT, MEAN_LOG_Z = "log10_attention_logit", "mean_log_z"
"""Names of a cell's measures."""

PENALTY = 1e-4
"""Weight of the squared log-partition, the paper's."""
LONG_WARMUP = 0.25
"""Share of all steps; plain's is the paper's, .05."""
DECAY_TIME = 0.1
"""Steps that decay takes to shrink a weight by e, as a share of all steps: the paper's
1e-4 a step over 100,000 steps. At 300 steps 1e-4 would shrink a weight by 2 %."""


COMPARISONS = (
    Comparison("qk-norm", "plain", "qk-norm lowers the sensitivity", SENSITIVITY),
    Comparison("qk-norm", "plain", "qk-norm keeps attention logits small", LOGIT),
    Comparison(
        "log-partition penalty", "plain", "the penalty keeps log Z near 0", LOG_Z
    ),
    Comparison(
        "long warm-up", "plain", "a longer warm-up lowers the sensitivity", SENSITIVITY
    ),
    Comparison(
        "independent decay",
        "ordinary decay",
        "independent decay has a lower sensitivity than ordinary decay",
        SENSITIVITY,
    ),
)
"""What the paper says."""

SCALES = {
    "smoke": Scale(
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=40,
            batch_size=8,
            model=ModelConfig(
                linear="dense", d_model=32, n_layers=1, n_heads=2, d_hidden=88
            ),
            data=DataConfig(heldout="0.01", tokenizer="bytes", seq_len=64),
            optim=OptimConfig(warmup=0.05, final_fraction=0.0),
            stability=StabilityConfig(every=5),
        ),
        rates=(3e-2, 3e-1),
        methods=("plain", "qk-norm"),
    ),
    "small": Scale(
        config=TrainConfig(
            mesh="data:1",
            steps=300,
            batch_size=16,
            model=ModelConfig(
                linear="dense", d_model=64, n_layers=4, n_heads=4, d_hidden=172
            ),
            data=DataConfig(tokenizer="bpe:1024", seq_len=128),
            optim=OptimConfig(warmup=0.05, final_fraction=0.0),
            stability=StabilityConfig(every=15),
        ),
        rates=(3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    ),
}


def build_methods(scale: Scale[TrainConfig]) -> dict[str, TrainConfig]:
    """Derive every variant from the plain one.

    Both kinds of decay are the same at the middle of the grid of learning rates.
    """
    base, rates = scale.config, scale.rates
    decay = 1 / (DECAY_TIME * base.steps)
    middle = rates[len(rates) // 2]
    with_optim = partial(replace_in, base, "optim")
    return {
        "plain": base,
        "qk-norm": replace_in(base, "model", qk_norm=True),
        "log-partition penalty": replace_in(base, "objective", log_partition=PENALTY),
        "long warm-up": with_optim(warmup=LONG_WARMUP),
        "independent decay": with_optim(weight_decay=decay, independent_decay=True),
        "ordinary decay": with_optim(weight_decay=decay / middle),
    }


def summarise(grids: Grids) -> dict[str, tuple[float, ...]]:
    """Measure a variant's grids, one a seed.

    A run that diverged counts as the untrained model.
    """
    found = [measure_sensitivity(grid) for grid in grids]
    largest = [grid[max(grid)].measures for grid in grids]
    return {
        SENSITIVITY: tuple(each.value for each in found),
        BEST_LOSS: tuple(each.best_loss for each in found),
        LOGIT: tuple(measures[LARGEST_LOGIT] for measures in largest),
        LOG_Z: tuple(abs(measures[MEAN_LOG_Z]) for measures in largest),
    }


def measure_logit_size(trial: Trial) -> float:
    """Compute log10 of the largest attention logit of all watched steps."""
    assert trial.max_attention_logit is not None
    return float(np.log10(trial.max_attention_logit))


def measure_log_z(trial: Trial) -> float:
    """Read the mean log-partition of the last watched step."""
    assert trial.mean_log_z is not None
    return trial.mean_log_z


def describe(scale: Scale[TrainConfig]) -> str:
    """Describe the setting."""
    optim, steps = scale.config.optim, scale.config.steps
    rates = ", ".join(f"{rate:g}" for rate in scale.rates)
    return (
        f"{describe_runs(scale.config)} AdamW at learning rates {rates}; a sensitivity "
        "is a seed's mean over them of min(loss, untrained loss) - least loss. "
        "Attention logits are the largest of any watched step, log Z that of the last, "
        f"at {max(scale.rates):g}. Warm-up is {optim.warmup:.0%} of the steps, long "
        f"warm-up {LONG_WARMUP:.0%}; the penalty weighs {PENALTY:g}; independent decay "
        f"is {1 / (DECAY_TIME * steps):.3g} a step at the schedule's peak (the paper's "
        "1e-4, for its number of steps), ordinary decay the same at "
        f"{scale.rates[len(scale.rates) // 2]:g} and in proportion to the rate "
        "elsewhere."
    )


EXPERIMENT = Experiment(
    paper="Small-scale proxies for Transformer training instabilities "
    "(arXiv:2309.14322)",
    scales=SCALES,
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(SENSITIVITY, BEST_LOSS, LOGIT, LOG_Z),
    read={
        INITIAL_LOSS: measure_initial_loss,
        LARGEST_LOGIT: measure_logit_size,
        MEAN_LOG_Z: measure_log_z,
    },
    facts=(PARAMETERS,),
    tuning=use_whole_grid(summarise, loss=cap_loss),
    swept="held-out loss",
    setting=describe,
    seeds=3,
)
