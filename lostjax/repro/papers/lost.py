"""LOST against dense, low-rank and sparse layers at equal non-embedding parameters.

LOST: "LOST: Low-rank and Sparse Training for Large Language Models", Li et al., 2025,
arXiv:2508.02668. Its claims, as far as they can be read: at about half the parameters
it is better than the low-rank methods of the same size, and no worse than full rank.
What its reviewers asked for is measured beside it: whether the gain comes from the
chosen channels, the SVD start, or the activation between the factors.

Every method trains on the same tokens in the same order, with its own learning rate.
The small scale takes an hour on two cores: some 70 runs on a million tokens each.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from lostjax.nn import count_parameters, rank_for_budget
from lostjax.repro.claims import Claim, Comparison, Row, judge
from lostjax.repro.tune import Scale, describe_setting, measure_methods
from lostjax.train.build.model import build_model
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

METHODS = (
    "dense, full",
    "dense, narrow",
    "low-rank",
    "CoLA",
    "SLTrain",
    "LOST",
    "LOST, random channels",
    "LOST, scaled-normal start",
    "LOST, no activation",
)

STATEMENTS = {
    "dense, full": "LOST, with {share:.0%} of the parameters, is no worse than dense",
    "dense, narrow": "LOST is better than dense, narrow",
    "low-rank": "LOST is better than low-rank",
    "CoLA": "LOST is better than CoLA",
    "SLTrain": "LOST is better than SLTrain",
    "LOST, random channels": "choosing channels by residual norm helps",
    "LOST, scaled-normal start": "starting from the SVD helps",
    "LOST, no activation": "the activation between the factors helps",
}
"""What the claim says of LOST beside each other method."""

SCALES = {
    "smoke": Scale(
        name="smoke",
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=400,
            batch_size=8,
            model=ModelConfig(
                d_model=32, n_layers=1, n_heads=2, d_hidden=88, rank=2, delta=0.0625
            ),
            data=DataConfig(heldout="0.01", tokenizer="bytes", seq_len=128),
        ),
        rates=(4e-3, 8e-3, 1.6e-2),
        methods=("dense, full", "LOST"),
    ),
    "small": Scale(
        name="small",
        config=TrainConfig(
            mesh="data:1",
            steps=500,
            batch_size=16,
            model=ModelConfig(
                d_model=128, n_layers=4, n_heads=4, d_hidden=344, rank=32, delta=0.0625
            ),
            data=DataConfig(tokenizer="bpe:1024", seq_len=128),
            optim=OptimConfig(),
        ),
        rates=(2e-3, 4e-3, 8e-3),
        methods=METHODS,
    ),
}


def build_methods(base: TrainConfig) -> dict[str, TrainConfig]:
    """Derive every method from LOST's configuration, at LOST's parameters.

    The ranks of the other factorised layers, and the width of the narrow dense model,
    are the largest whose parameters outside embedding and head do not exceed LOST's.
    """
    model = base.model
    target = _inner_parameters(model)

    def variant(**values: object) -> TrainConfig:
        return replace_in(base, "model", **values)

    def at_budget(**values: object) -> TrainConfig:
        config = variant(**values)

        def with_rank(rank: int) -> ModelConfig:
            return dataclasses.replace(config.model, rank=rank)

        rank = rank_for_budget(
            lambda rank: build_model(with_rank(rank), vocab_size=1),
            n_parameters=target,
        )
        return dataclasses.replace(config, model=with_rank(rank))

    def narrow(width: int, hidden: int) -> ModelConfig:
        return dataclasses.replace(
            model, linear="dense", d_model=width, d_hidden=hidden
        )

    # Head widths are even, so widths come in steps: the hidden width fills the rest.
    unit, shape = 2 * model.n_heads, model.d_hidden / model.d_model
    width = unit * _largest(
        lambda n: _inner_parameters(narrow(n * unit, round(n * unit * shape))),
        target,
        model.d_model // unit,
    )
    hidden = _largest(
        lambda hidden: _inner_parameters(narrow(width, hidden)), target, model.d_hidden
    )
    return {
        "dense, full": variant(linear="dense"),
        "dense, narrow": dataclasses.replace(base, model=narrow(width, hidden)),
        "low-rank": at_budget(linear="low_rank"),
        "CoLA": at_budget(linear="cola"),
        "SLTrain": at_budget(linear="sltrain", delta=0.03),
        "LOST": base,
        "LOST, random channels": variant(channels="random"),
        "LOST, scaled-normal start": variant(factors="scaled_normal"),
        "LOST, no activation": variant(activation="none"),
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
    )
    model = scale.config.model
    return Claim(
        name=f"lost-{scale.name}",
        paper="LOST: Low-rank and Sparse Training (arXiv:2508.02668)",
        setting=f"{describe_setting(scale.config)} Parameters are those outside "
        f"embedding and head. LOST has rank {model.rank}, delta {model.delta:g} and "
        f"gamma {model.gamma:g}; the other methods, but for dense, full, have at most "
        "its parameters.",
        rows=rows,
        findings=judge(rows, compare_with_lost(rows)),
        cost=cost,
    )


def compare_with_lost(rows: Sequence[Row]) -> list[Comparison]:
    """Compare LOST with every other row."""
    parameters = {row.method: row.facts["parameters"] for row in rows}
    return [
        Comparison(
            "LOST",
            method,
            STATEMENTS[method].format(share=parameters["LOST"] / count),
        )
        for method, count in parameters.items()
        if method != "LOST"
    ]


def _inner_parameters(model: ModelConfig) -> int:
    return count_parameters(build_model(model, vocab_size=1)).non_embedding


def _largest(count: Callable[[int], int], target: int, limit: int) -> int:
    """Find the largest size from 1 to limit whose count does not exceed the target."""
    fitting = [size for size in range(1, limit + 1) if count(size) <= target]
    return max(fitting)
