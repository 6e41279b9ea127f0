"""FRUGAL against AdamW and against optimisers of the same state.

FRUGAL: "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", Zmushko et al., 2024, arXiv:2411.07837. It keeps Adam's moments in a part of
each matrix and moves the rest by the sign of its gradient. Its claims: better than
GaLore and BAdam at their memory, even with no state in the matrices at all; close to
AdamW; the output head must keep its state.

Measured beside that: which part of a matrix it is, what becomes of moments when the
part changes, and, in a LOST model, whether the low-rank factors should be projected or
keep Adam's full state. Every method trains the same model on the same tokens in the
same order, with its own learning rate.
"""

from functools import partial

from lostjax.optim import state_bytes
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import describe_runs
from lostjax.sweep.cells import BITS
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
    FrugalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from lostjax.train.trial import Trial

STATE = "optimiser state, kB"
"""Name of the count of a row's optimiser state, thousands of bytes."""

LARGE_VOCABULARY = ", 4096 tokens"
"""What the names of methods with the large vocabulary end in: their bits per byte are
those of another model."""


COMPARISONS = (
    Comparison("AdamW", "FRUGAL", "AdamW is better than FRUGAL at density .25"),
    Comparison("FRUGAL", "GaLore", "FRUGAL is better than GaLore of its density"),
    Comparison(
        "FRUGAL, blocks", "BAdam", "FRUGAL on blocks is better than BAdam on them"
    ),
    Comparison(
        "FRUGAL, density 0", "GaLore", "FRUGAL without state is better than GaLore"
    ),
    Comparison(
        "FRUGAL, density 0", "BAdam", "FRUGAL without state is better than BAdam"
    ),
    Comparison("FRUGAL", "FRUGAL, density 0", "density .25 is better than 0"),
    Comparison(
        "FRUGAL, density 0",
        "sign SGD",
        "without state in matrices, the other tensors' state still helps",
    ),
    Comparison(
        "FRUGAL, density 0" + LARGE_VOCABULARY,
        "FRUGAL, density 0, head by sign" + LARGE_VOCABULARY,
        "the output head must keep its state",
    ),
    Comparison("FRUGAL, SVD", "FRUGAL", "the gradient's SVD is better than rows"),
    Comparison("FRUGAL", "FRUGAL, columns", "rows are better than columns"),
    Comparison("FRUGAL", "FRUGAL, blocks", "rows are better than blocks"),
    Comparison("FRUGAL", "FRUGAL, coordinates", "rows are better than coordinates"),
    Comparison(
        "FRUGAL, orthonormal", "FRUGAL", "random directions are better than rows"
    ),
    Comparison("FRUGAL", "FRUGAL, gap 10", "a gap of 50 is better than 10"),
    Comparison("FRUGAL", "FRUGAL, gap 250", "a gap of 50 is better than 250"),
    Comparison("FRUGAL", "FRUGAL, keep", "resetting moments is better than keeping"),
    Comparison("LOST, AdamW", "LOST, FRUGAL", "in LOST, AdamW is better than FRUGAL"),
    Comparison("LOST, FRUGAL", "LOST, GaLore", "in LOST, FRUGAL is better than GaLore"),
    Comparison(
        "LOST, FRUGAL, full factors",
        "LOST, FRUGAL",
        "in LOST, factors with full state are better than projected ones",
    ),
)
"""What the paper, or common sense after it, says."""

SCALES = {
    "smoke": Scale(
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=60,
            batch_size=8,
            model=ModelConfig(
                linear="dense", d_model=32, n_layers=1, n_heads=2, d_hidden=88
            ),
            data=DataConfig(heldout="0.01", tokenizer="bytes", seq_len=64),
            optim=OptimConfig(frugal=FrugalConfig(update_gap=10)),
        ),
        rates=(4e-3, 8e-3, 1.6e-2, 3.2e-2),
        methods=("AdamW", "FRUGAL"),
    ),
    "small": Scale(
        config=TrainConfig(
            mesh="data:1",
            steps=500,
            batch_size=16,
            model=ModelConfig(
                linear="dense",
                d_model=64,
                n_layers=4,
                n_heads=4,
                d_hidden=172,
                rank=16,
                delta=0.0625,
            ),
            data=DataConfig(tokenizer="bpe:1024", seq_len=128),
            optim=OptimConfig(frugal=FrugalConfig(update_gap=50)),
        ),
        rates=(4e-3, 8e-3, 1.6e-2),
    ),
}


def build_methods(scale: Scale[TrainConfig]) -> dict[str, TrainConfig]:
    """Derive every method from the configuration of a dense model.

    All of them have its parameters, except LOST models and those with the large
    vocabulary.
    """
    base = scale.config
    lost = replace_in(base, "model", linear="lost")
    words = replace_in(base, "data", tokenizer="bpe:4096")
    galore = partial(replace_in, part="optim", name="galore")

    def frugal(config: TrainConfig, **split: object) -> TrainConfig:
        named = replace_in(config, "optim", name="frugal")
        return replace_in(named, "optim.frugal", **split)

    by_sign = replace_in(frugal(words, density=0.0), "optim", full_state="embed|norm")
    full = replace_in(frugal(lost), "optim", full_state="embed|head|norm|/(a|b)$")
    return {
        "AdamW": base,
        "FRUGAL": frugal(base),
        "GaLore": galore(base),
        "FRUGAL, blocks": frugal(base, subspace="blocks"),
        "BAdam": frugal(base, subspace="blocks", state_free="none"),
        "FRUGAL, density 0": frugal(base, density=0.0),
        "sign SGD": replace_in(base, "optim", name="sign_sgd"),
        "FRUGAL, density 0" + LARGE_VOCABULARY: frugal(words, density=0.0),
        "FRUGAL, density 0, head by sign" + LARGE_VOCABULARY: by_sign,
        "FRUGAL, SVD": frugal(base, subspace="svd"),
        "FRUGAL, columns": frugal(base, subspace="columns"),
        "FRUGAL, coordinates": frugal(base, subspace="coordinates"),
        "FRUGAL, orthonormal": frugal(base, subspace="orthonormal"),
        "FRUGAL, gap 10": frugal(base, update_gap=10),
        "FRUGAL, gap 250": frugal(base, update_gap=250),
        "FRUGAL, keep": frugal(base, on_refresh="keep"),
        "LOST, AdamW": lost,
        "LOST, FRUGAL": frugal(lost),
        "LOST, GaLore": galore(lost),
        "LOST, FRUGAL, full factors": full,
    }


def measure_state(trial: Trial) -> float:
    """Count the bytes of the optimiser's state, in thousands."""
    assert trial.state is not None
    return state_bytes(trial.state.opt_state) / 1000


def describe(scale: Scale[TrainConfig]) -> str:
    """Describe the setting."""
    split, model = scale.config.optim.frugal, scale.config.model
    return (
        f"{describe_runs(scale.config)} FRUGAL has density {split.density:g}, keeps "
        f"rows (of inputs), chooses anew every {split.update_gap} steps, and resets "
        f"moments then, unless its name says otherwise. LOST has rank {model.rank} and "
        f"delta {model.delta:g}."
    )


EXPERIMENT = Experiment(
    paper="FRUGAL: Memory-Efficient Optimization (arXiv:2411.07837)",
    scales=SCALES,
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(BITS,),
    read={STATE: measure_state},
    facts=(STATE,),
    setting=describe,
    seeds=3,
)
