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

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lostjax.repro.claims import Claim, Comparison, Row, judge
from lostjax.repro.tune import Scale, add_costs, configure_cell, describe_runs
from lostjax.repro.workers import map_on_cores
from lostjax.sweep.cells import Cell, run_cell
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
"""Names of a row's measures; all are better where they are less."""

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
"""What the paper says; measured where both rows are."""

METHODS = (
    "plain",
    "qk-norm",
    "log-partition penalty",
    "long warm-up",
    "independent decay",
    "ordinary decay",
)

SCALES = {
    "smoke": Scale(
        name="smoke",
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
        name="small",
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
        methods=METHODS,
    ),
}


class Run(NamedTuple):
    """One cell of the grid."""

    method: str
    rate: float
    seed: int
    config: TrainConfig


def build_methods(
    base: TrainConfig, *, rates: Sequence[float]
) -> dict[str, TrainConfig]:
    """Derive every variant from the plain one.

    Args:
      base: the plain variant.
      rates: the grid, rising; both kinds of decay are the same at its middle rate.
    """
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


def run(scale: Scale, *, seeds: int, directory: Path, workers: int = 1) -> Claim:
    """Measure the claim.

    Args:
      scale: one of `SCALES`.
      seeds: how many a row, at least 2.
      directory: where cells are kept and found.
      workers: runs that train at once, each on one CPU core.

    Returns:
      The claim with its rows and findings.
    """
    methods = build_methods(scale.config, rates=scale.rates)
    runs = [
        Run(name, rate, seed, configure_cell(methods[name], rate=rate, seed=seed))
        for name in scale.methods
        for rate in scale.rates
        for seed in range(seeds)
    ]
    cells = map_on_cores(partial(_train, directory=directory), runs, workers=workers)
    made = {
        (run.method, run.rate, run.seed): cell
        for run, cell in zip(runs, cells, strict=True)
    }
    rows = tuple(
        summarise(
            name,
            [
                {rate: made[name, rate, seed] for rate in scale.rates}
                for seed in range(seeds)
            ],
        )
        for name in scale.methods
    )
    return Claim(
        name=f"stability-{scale.name}",
        paper="Small-scale proxies for Transformer training instabilities "
        "(arXiv:2309.14322)",
        setting=_describe(scale),
        rows=rows,
        findings=judge(rows, COMPARISONS),
        cost=add_costs(cells),
        swept="held-out loss",
    )


def summarise(method: str, grids: Sequence[Mapping[float, Cell]]) -> Row:
    """Give a variant's row.

    Args:
      method: the variant's name.
      grids: of every seed, the cells by learning rate, rising.

    Returns:
      The row. Its losses over learning rates are means over seeds; a run that diverged
      counts as the untrained model.
    """
    found = [measure_sensitivity(grid) for grid in grids]
    largest = [grid[max(grid)] for grid in grids]
    swept = {
        rate: float(np.mean([cap_loss(grid[rate]) for grid in grids]))
        for rate in grids[0]
    }
    return Row(
        method=method,
        facts={"parameters": largest[0].parameters},
        learning_rate=min(swept, key=swept.__getitem__),
        swept=swept,
        measures={
            SENSITIVITY: tuple(each.value for each in found),
            BEST_LOSS: tuple(each.best_loss for each in found),
            LOGIT: tuple(cell.measures["log10_attention_logit"] for cell in largest),
            LOG_Z: tuple(abs(cell.measures["mean_log_z"]) for cell in largest),
        },
    )


def measure_logit_size(trial: Trial) -> float:
    """Give log10 of the largest attention logit of all watched steps."""
    assert trial.max_attention_logit is not None
    return float(np.log10(trial.max_attention_logit))


def measure_log_z(trial: Trial) -> float:
    """Give the mean log-partition of the last watched step."""
    assert trial.mean_log_z is not None
    return trial.mean_log_z


MEASURES = {
    INITIAL_LOSS: measure_initial_loss,
    "log10_attention_logit": measure_logit_size,
    "mean_log_z": measure_log_z,
}
"""What a cell has besides its losses."""


def _train(run: Run, *, directory: Path) -> Cell:
    return run_cell(run.method, run.config, directory=directory, measures=MEASURES)


def _describe(scale: Scale) -> str:
    optim, steps = scale.config.optim, scale.config.steps
    rates = ", ".join(f"{rate:g}" for rate in scale.rates)
    return (
        f"{describe_runs(scale.config)} AdamW at learning rates {rates}, every seed at "
        "every rate; a sensitivity is a seed's mean over them of min(loss, untrained "
        "loss) - least loss. The best learning rate has the least mean loss. Attention "
        f"logits are the largest of any watched step, log Z that of the last, at "
        f"{max(scale.rates):g}. Warm-up is {optim.warmup:.0%} of the steps, long "
        f"warm-up {LONG_WARMUP:.0%}; the penalty weighs {PENALTY:g}; independent decay "
        f"is {1 / (DECAY_TIME * steps):.3g} a step at the schedule's peak (the paper's "
        "1e-4, for its number of steps), ordinary decay the same at "
        f"{scale.rates[len(scale.rates) // 2]:g} and in proportion to the rate "
        "elsewhere."
    )
