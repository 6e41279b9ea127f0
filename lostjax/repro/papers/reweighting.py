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

from pathlib import Path

from lostjax.repro.claims import Claim, Comparison, judge
from lostjax.repro.tune import Scale, describe_setting, measure_methods
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
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
"""What the paper, or common sense after it, says; measured where both rows are."""

METHODS = tuple(
    dict.fromkeys(name for pair in COMPARISONS for name in (pair.first, pair.second))
)

OBJECTIVE = ObjectiveConfig(reweight_temperature=0.4, reweight_warmup=0.05)

SCALES = {
    "smoke": Scale(
        name="smoke",
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
        name="small",
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
        methods=METHODS,
    ),
}


def build_methods(base: TrainConfig) -> dict[str, TrainConfig]:
    """Derive every method from the configuration of uniform weights on the mixture."""
    alone = replace_in(base, "data", source=FRESH)
    return {
        "uniform": base,
        "lin_upper": replace_in(base, "objective", reweight="lin_upper"),
        "quadratic": replace_in(base, "objective", reweight="quadratic"),
        "extremes": replace_in(base, "objective", reweight="extremes"),
        "uniform" + ALONE: alone,
        "lin_upper" + ALONE: replace_in(alone, "objective", reweight="lin_upper"),
    }


def run(scale: Scale, *, seeds: int, directory: Path, workers: int = 1) -> Claim:
    """Measure the claim.

    Args:
      scale: one of `SCALES`.
      seeds: how many a row, at least 2.
      directory: where cells are kept and found.
      workers: methods that train at once, each on one CPU core.

    Returns:
      The claim with its rows and findings.

    Raises:
      SweepError: where some method's best learning rate was not found.
    """
    methods = build_methods(scale.config)
    rows, cost = measure_methods(
        {name: methods[name] for name in scale.methods},
        rates=scale.rates,
        seeds=seeds,
        directory=directory,
        workers=workers,
        measures={QUARTER: measure_quarter, HALF: measure_half},
    )
    objective = scale.config.objective
    return Claim(
        name=f"reweighting-{scale.name}",
        paper="Dynamic Loss-Based Sample Reweighting (arXiv:2502.06733)",
        setting=f"{describe_setting(scale.config)} It is chosen by the final bits per "
        f"byte. A step has {scale.config.batch_size} rows, half of them of `{EASY}`; "
        f"fresh text alone is `{FRESH}`; held out is `{scale.config.data.heldout}`. "
        f"Weights have the temperature {objective.reweight_temperature:g}, after "
        f"{objective.reweight_warmup:.0%} of the steps at equal weights.",
        rows=rows,
        findings=judge(rows, COMPARISONS),
        cost=cost,
    )


def measure_quarter(trial: Trial) -> float:
    """Read the held-out bits per byte after a quarter of the steps."""
    return _measure_at(trial, 4)


def measure_half(trial: Trial) -> float:
    """Read the held-out bits per byte after half of the steps."""
    return _measure_at(trial, 2)


def _measure_at(trial: Trial, part: int) -> float:
    return trial.evaluations[len(trial.losses) // part].bits_per_byte
