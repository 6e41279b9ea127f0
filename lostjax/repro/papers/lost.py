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
from collections.abc import Callable

from lostjax.nn import count_parameters, rank_for_budget
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import describe_runs
from lostjax.sweep.cells import BITS, PARAMETERS
from lostjax.train.build.model import build_model
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

COMPARISONS = (
    Comparison(
        "LOST",
        "dense, full",
        "LOST, with about half of the parameters, is no worse than dense",
    ),
    Comparison("LOST", "dense, narrow", "LOST is better than dense, narrow"),
    Comparison("LOST", "low-rank", "LOST is better than low-rank"),
    Comparison("LOST", "CoLA", "LOST is better than CoLA"),
    Comparison("LOST", "SLTrain", "LOST is better than SLTrain"),
    Comparison(
        "LOST", "LOST, random channels", "choosing channels by residual norm helps"
    ),
    Comparison("LOST", "LOST, scaled-normal start", "starting from the SVD helps"),
    Comparison(
        "LOST", "LOST, no activation", "the activation between the factors helps"
    ),
)

SCALES = {
    "smoke": Scale(
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
    ),
}


def build_methods(scale: Scale[TrainConfig]) -> dict[str, TrainConfig]:
    """Derive every method from LOST's configuration, at LOST's parameters.

    The ranks of the other factorised layers, and the width of the narrow dense model,
    are the largest whose parameters outside embedding and head do not exceed LOST's.
    """
    base, model = scale.config, scale.config.model
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


def describe(scale: Scale[TrainConfig]) -> str:
    """Describe the setting."""
    model = scale.config.model
    return (
        f"{describe_runs(scale.config)} Parameters are those outside embedding and "
        f"head. LOST has rank {model.rank}, delta {model.delta:g} and gamma "
        f"{model.gamma:g}; the other methods, except dense, full, have at most its "
        "parameters."
    )


def _inner_parameters(model: ModelConfig) -> int:
    return count_parameters(build_model(model, vocab_size=1)).non_embedding


def _largest(count: Callable[[int], int], target: int, limit: int) -> int:
    """Find the largest size from 1 to limit whose count does not exceed the target."""
    fitting = [size for size in range(1, limit + 1) if count(size) <= target]
    return max(fitting)


EXPERIMENT = Experiment(
    paper="LOST: Low-rank and Sparse Training (arXiv:2508.02668)",
    scales=SCALES,
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(BITS,),
    facts=(PARAMETERS,),
    setting=describe,
    seeds=3,
)
