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

from pathlib import Path

from lostjax.optim import state_bytes
from lostjax.repro.claims import BITS, Claim, Comparison, Row, judge
from lostjax.repro.tune import Scale, describe_setting, measure_methods
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import (
    DataConfig,
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
"""What the paper, or common sense after it, says; measured where both rows are."""

METHODS = tuple(
    dict.fromkeys(name for pair in COMPARISONS for name in (pair.first, pair.second))
)

SCALES = {
    "smoke": Scale(
        name="smoke",
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=60,
            batch_size=8,
            model=ModelConfig(
                linear="dense", d_model=32, n_layers=1, n_heads=2, d_hidden=88
            ),
            data=DataConfig(heldout="0.01", tokenizer="bytes", seq_len=64),
            optim=OptimConfig(update_gap=10),
        ),
        rates=(4e-3, 8e-3, 1.6e-2, 3.2e-2),
        methods=("AdamW", "FRUGAL"),
    ),
    "small": Scale(
        name="small",
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
            optim=OptimConfig(update_gap=50),
        ),
        rates=(4e-3, 8e-3, 1.6e-2),
        methods=METHODS,
    ),
}


def build_methods(base: TrainConfig) -> dict[str, TrainConfig]:
    """Derive every method from the configuration of a dense model.

    All of them have its parameters, but for those that are LOST models or have the
    large vocabulary.
    """
    lost = replace_in(base, "model", linear="lost")
    words = replace_in(base, "data", tokenizer="bpe:4096")
    return {
        "AdamW": base,
        "FRUGAL": replace_in(base, "optim", name="frugal"),
        "FRUGAL, blocks": replace_in(base, "optim", name="frugal", subspace="blocks"),
        "FRUGAL, columns": replace_in(base, "optim", name="frugal", subspace="columns"),
        "FRUGAL, coordinates": replace_in(
            base, "optim", name="frugal", subspace="coordinates"
        ),
        "FRUGAL, orthonormal": replace_in(
            base, "optim", name="frugal", subspace="orthonormal"
        ),
        "FRUGAL, SVD": replace_in(base, "optim", name="frugal", subspace="svd"),
        "FRUGAL, gap 10": replace_in(base, "optim", name="frugal", update_gap=10),
        "FRUGAL, gap 250": replace_in(base, "optim", name="frugal", update_gap=250),
        "FRUGAL, keep": replace_in(base, "optim", name="frugal", on_refresh="keep"),
        "FRUGAL, density 0": replace_in(base, "optim", name="frugal", density=0.0),
        "BAdam": replace_in(
            base, "optim", name="frugal", subspace="blocks", state_free="none"
        ),
        "GaLore": replace_in(base, "optim", name="galore"),
        "sign SGD": replace_in(base, "optim", name="sign_sgd"),
        "FRUGAL, density 0" + LARGE_VOCABULARY: replace_in(
            words, "optim", name="frugal", density=0.0
        ),
        "FRUGAL, density 0, head by sign" + LARGE_VOCABULARY: replace_in(
            words, "optim", name="frugal", density=0.0, full_state="embed|norm"
        ),
        "LOST, AdamW": lost,
        "LOST, FRUGAL": replace_in(lost, "optim", name="frugal"),
        "LOST, FRUGAL, full factors": replace_in(
            lost, "optim", name="frugal", full_state="embed|head|norm|/(a|b)$"
        ),
        "LOST, GaLore": replace_in(lost, "optim", name="galore"),
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
    measured = measure_methods(
        {name: methods[name] for name in scale.methods},
        rates=scale.rates,
        seeds=seeds,
        directory=directory,
        workers=workers,
        measures={STATE: measure_state},
    )
    rows = tuple(map(_state_as_fact, measured.rows))
    optim = scale.config.optim
    return Claim(
        name=f"frugal-{scale.name}",
        paper="FRUGAL: Memory-Efficient Optimization (arXiv:2411.07837)",
        setting=f"{describe_setting(scale.config)} FRUGAL has density "
        f"{optim.density:g}, keeps rows (of inputs), chooses anew every "
        f"{optim.update_gap} steps, and resets moments then, where nothing else is "
        f"said. LOST has rank {scale.config.model.rank} and delta "
        f"{scale.config.model.delta:g}.",
        rows=rows,
        findings=judge(rows, COMPARISONS),
        cost=measured.cost,
    )


def measure_state(trial: Trial) -> float:
    """Count the bytes of the optimiser's state, in thousands."""
    assert trial.finished is not None
    return state_bytes(trial.finished.state.opt_state) / 1000


def _state_as_fact(row: Row) -> Row:
    """Make the state, which is the same for every seed, a count of the row."""
    (state, *_) = row.measures[STATE]
    return row._replace(
        facts={STATE: round(state)}, measures={BITS: row.measures[BITS]}
    )
