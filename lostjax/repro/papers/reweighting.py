"""Rows weighed by their losses against uniform weights, where half of the text is easy.

"Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
Sow et al., 2025, arXiv:2502.06733. Its claims: lowering the weight of rows of low loss
(lin_upper) makes training converge faster and end better; of the shapes that it
compares, lin_upper is the best.

That needs rows of unequal difficulty. Here half of all rows are of two messages of
2,500 words, which come again and again, as duplicates do in text from the web; the
other half is read less than once, and so is the held-out text, which is like it. The
control is that other half alone: with nothing to lower, the gain should vanish.

All shapes have the temperature .4, which the authors take for their larger models, not
the 1 of their smallest: a row then counts up to 12 times another, not 2.7 times. Three
seeds could hardly tell a weaker effect from none. It was settled, as everything here,
before the first run of the small scale.
"""

from functools import partial

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import describe_runs
from lostjax.sweep.cells import BITS, PARAMETERS
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    ReweightConfig,
    TrainConfig,
)
from lostjax.train.trial import Trial

EASY, FRESH = "sotu:1790", "sotu:1930-2010"
"""The half that comes again and again, and the half that does not."""

QUARTER, HALF = "after 1/4 of the steps", "after 1/2 of the steps"
"""Names of bits per byte along the way."""

ALONE = ", fresh text alone"
"""What the names of methods without the easy half end in."""


COMPARISONS = (
    Comparison("lin_upper", "uniform", "lin_upper ends better than uniform"),
    Comparison("lin_upper", "uniform", "lin_upper is better after a quarter", QUARTER),
    Comparison("lin_upper", "uniform", "lin_upper is better after half", HALF),
    Comparison("lin_upper", "quadratic", "lin_upper is better than quadratic"),
    Comparison("lin_upper", "extremes", "lin_upper is better than extremes"),
    Comparison("uniform", "extremes", "extremes, the control, is worse than uniform"),
    Comparison(
        "lin_upper" + ALONE,
        "uniform" + ALONE,
        "on fresh text alone, where little is expected, lin_upper is better",
    ),
)
"""What the paper, or common sense after it, says."""

OBJECTIVE = ObjectiveConfig(reweight=ReweightConfig(temperature=0.4, warmup=0.05))

SCALES = {
    "smoke": Scale(
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=60,
            batch_size=16,
            eval_every=15,
            model=ModelConfig(
                linear="dense", d_model=32, n_layers=1, n_heads=2, d_hidden=88
            ),
            data=DataConfig(
                source=f"0.5*{EASY},0.5*{FRESH}",
                heldout="sotu:2011",
                tokenizer="bytes",
                seq_len=64,
            ),
            objective=OBJECTIVE,
        ),
        rates=(1.6e-2, 3.2e-2, 6.4e-2),
        methods=("uniform", "lin_upper"),
    ),
    "small": Scale(
        config=TrainConfig(
            mesh="data:1",
            steps=300,
            batch_size=16,
            eval_every=75,
            model=ModelConfig(
                linear="dense", d_model=64, n_layers=4, n_heads=4, d_hidden=172
            ),
            data=DataConfig(
                source=f"0.5*{EASY},0.5*{FRESH}",
                heldout="sotu:2011-2026",
                tokenizer="bpe:1024",
                seq_len=128,
            ),
            objective=OBJECTIVE,
        ),
        rates=(4e-3, 8e-3, 1.6e-2),
    ),
}


def build_methods(scale: Scale[TrainConfig]) -> dict[str, TrainConfig]:
    """Derive every method from the configuration of uniform weights on the mixture."""
    base = scale.config
    alone = replace_in(base, "data", source=FRESH)
    weigh = partial(replace_in, part="objective.reweight")
    return {
        "lin_upper": weigh(base, name="lin_upper"),
        "uniform": base,
        "quadratic": weigh(base, name="quadratic"),
        "extremes": weigh(base, name="extremes"),
        "lin_upper" + ALONE: weigh(alone, name="lin_upper"),
        "uniform" + ALONE: alone,
    }


def measure_at(trial: Trial, *, part: int) -> float:
    """Read the held-out bits per byte after one `part`th of the steps."""
    return trial.evaluations[len(trial.losses) // part].bits_per_byte


def describe(scale: Scale[TrainConfig]) -> str:
    """Describe the setting."""
    config, weights = scale.config, scale.config.objective.reweight
    return (
        f"{describe_runs(config)} A step has {config.batch_size} rows, half of them of "
        f"`{EASY}`; fresh text alone is `{FRESH}`; held out is "
        f"`{config.data.heldout}`. Weights have the temperature "
        f"{weights.temperature:g}, after {weights.warmup:.0%} of "
        "the steps at equal weights."
    )


EXPERIMENT = Experiment(
    paper="Dynamic Loss-Based Sample Reweighting (arXiv:2502.06733)",
    scales=SCALES,
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(BITS, QUARTER, HALF),
    read={
        QUARTER: partial(measure_at, part=4),
        HALF: partial(measure_at, part=2),
    },
    facts=(PARAMETERS,),
    setting=describe,
    seeds=3,
)
