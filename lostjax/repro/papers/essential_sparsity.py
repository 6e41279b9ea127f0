"""Essential sparsity of small language models: the smallest weights against others.

Jaiswal, Liu, Chen & Wang, "The Emergence of Essential Sparsity in Large Pre-trained
Models: The Weights that Matter", 2023, arXiv:2306.03805. Its claims, as far as they are
tried here: the smallest 20 to 50 % of a trained model's weights can be removed at once
and nothing gets worse, before training goes on and after; other weights cannot. The
controls remove the same number of weights at random, of all matrices alike or by the
ERK densities. The paper's models are dense; ours are dense, and LOST's, whose weights
are pruned where they are trained: in both factors and in the kept channels of every
map, which are ranked together with those of all other maps.

A seed's model is trained once and pruned by every mask, so that differences of masks
are paired. The learning rates are those that `repro lost` found for twice the width;
sparsities, tolerance (the paper's 1 %) and the 60 steps after pruning were settled
before anything was measured. LOST's rows are after the dense ones were known; nothing
was changed for them. Lottery masks: `lottery_masks`. Not tried: the paper's pre-trained
models, sparsification along checkpoints, self-supervised against supervised training.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import optax

from lostjax import analysis
from lostjax.optim import mask_updates
from lostjax.prune.curve import (
    Passages,
    bits_per_byte,
    choose_passages,
    find_matrices,
    score_passages,
)
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE
from lostjax.steps.score import PassageStep, make_passage_step
from lostjax.steps.state import model_variables
from lostjax.steps.step import make_eval_step
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import DataConfig, ModelConfig, OptimConfig
from lostjax.train.trial import Trial, run_trial
from lostjax.typing import Batch, PyTree, Variables

NEEDED = "weights needed, %"
"""Share of the weights left at the essential sparsity."""
HALF = "bits per byte without half"
TUNED = "the same, 60 steps later"
WHOLE = "bits per byte, whole"

MASKS = {"dense": ("smallest", "random", "ERK"), "LOST": ("smallest", "random")}
RATES = {"dense": 2.8e-3, "lost": 4e-3}
SPARSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A model, how it is trained, and which weights are removed."""

    linear: str = "dense"
    mask: str = "smallest"
    width: int = 64
    layers: int = 2
    steps: int = 400
    tokenizer: str = "bpe:1024"
    tokens: int = 32768
    """Held-out tokens to score each mask on."""
    more_steps: int = 60
    """Steps after half of the weights are removed, at a tenth of the peak rate."""


class Trained(NamedTuple):
    """A trained model and what it is scored with."""

    trial: Trial
    variables: Variables
    step: PassageStep
    passages: Passages

    def bits(self, params: PyTree) -> float:
        """Compute held-out bits per byte with other parameters."""
        variables = {**self.variables, "params": params}
        scored = score_passages(self.step, variables, self.passages)
        return bits_per_byte(*scored, self.passages)


def measure(config: Pruned, rate: float | None, seed: int) -> dict[str, float]:
    """Prune the model of a seed at every sparsity, and train it on at one half."""
    del rate
    made = _train(dataclasses.replace(config, mask=""), seed)
    params = made.variables["params"]
    bits = {}
    for sparsity in SPARSITIES:
        mask = _make_mask(config.mask, params, sparsity, seed=seed)
        bits[sparsity] = made.bits(analysis.apply_mask(params, mask))
    found = analysis.essential_sparsity(
        list(bits),
        [-each for each in bits.values()],
        tolerance=TOLERANCE,
        relative=True,
    )
    mask = _make_mask(config.mask, params, 0.5, seed=seed)
    return {
        NEEDED: 100 * (1 - found.sparsity),
        HALF: bits[0.5],
        TUNED: made.bits(_train_on(made, mask, config)),
        WHOLE: bits[0.0],
    }


@lru_cache(maxsize=8)
def _train(config: Pruned, seed: int) -> Trained:
    """Train the model that all masks of a seed prune."""
    width, linear = config.width, config.linear
    trial = run_trial(
        dataclasses.replace(
            get_preset("tiny"),
            mesh="data:1",
            seed=seed,
            steps=config.steps,
            batch_size=16,
            model=ModelConfig(
                d_model=width,
                n_layers=config.layers,
                n_heads=2,
                d_hidden=8 * round(width / 3),
                linear=linear,  # type: ignore[arg-type]
                rank=width // 4,
                delta=0.0625,
            ),
            data=DataConfig(tokenizer=config.tokenizer, seq_len=128),
            optim=OptimConfig(learning_rate=RATES[linear]),
        )
    )
    assert trial.job is not None and trial.state is not None
    return Trained(
        trial,
        model_variables(trial.state),
        jax.jit(make_passage_step(trial.job.model)),
        choose_passages(trial.job.data.heldout, tokens=config.tokens),
    )


def _make_mask(kind: str, params: PyTree, sparsity: float, *, seed: int) -> PyTree:
    if kind == "smallest":
        return analysis.magnitude_mask(params, sparsity, matrices=find_matrices)
    make = {"random": analysis.random_mask, "ERK": analysis.erk_mask}[kind]
    return make(params, sparsity, key=jax.random.key(seed), matrices=find_matrices)


def _train_on(made: Trained, mask: PyTree, config: Pruned) -> PyTree:
    """Train the weights that a mask leaves, on batches that follow those seen."""
    job = made.trial.job
    assert job is not None
    rate = RATES[config.linear] / 10  # where the run's cosine had ended
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b2=0.95, weight_decay=0.0),
        mask_updates(mask),
    )
    score = make_eval_step(job.model)

    def loss(params: PyTree, batch: Batch) -> jax.Array:
        nats, tokens = score({**made.variables, "params": params}, batch)
        return nats / tokens

    @jax.jit
    def step(params: PyTree, state: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    params = analysis.apply_mask(made.variables["params"], mask)
    state = tx.init(params)
    for number in range(config.steps, config.steps + config.more_steps):
        params, state = step(params, state, job.data.train.batch_at(number))
    return params


def build_methods(scale: Scale[Pruned]) -> dict[str, Pruned]:
    """Build a row for each kind of layer and mask."""
    make: Callable[..., Pruned] = partial(dataclasses.replace, scale.config)
    return {
        f"{kind}, {mask}": make(linear=kind.lower(), mask=mask)
        for kind, masks in MASKS.items()
        for mask in masks
    }


def _compare(kind: str, *, prefix: str = "") -> tuple[Comparison, ...]:
    """Compare masks of one kind of layer."""
    smallest = f"{kind}, smallest"
    words = {"random": "at random", "ERK": "by ERK"}
    return (
        Comparison(
            smallest,
            80.0,
            f"{prefix}the smallest fifth can be removed at 1 % more bits per byte",
            NEEDED,
        ),
        *(
            Comparison(
                smallest,
                f"{kind}, {other}",
                f"{prefix}{statement} {words[other]}",
                measure,
            )
            for other in MASKS[kind][1:]
            for statement, measure in (
                ("more weights can be removed by size than", NEEDED),
                ("half of the weights are better removed by size than", HALF),
                ("trained on, the half left by size is better than that left", TUNED),
            )
        ),
    )


COMPARISONS = (
    *_compare("dense"),
    *_compare("LOST", prefix="LOST: "),
    Comparison(
        "dense, smallest",
        "LOST, smallest",
        "a larger share of a dense model's weights can be removed than of LOST's",
        NEEDED,
    ),
)


def describe(scale: Scale[Pruned]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every model: {config.layers} layers of width {config.width}, text `sotu`, "
        f"tokenizer `{config.tokenizer}`, {config.steps} steps of 2,048 tokens, at the "
        "learning rate that `lost` found for twice the width. LOST's maps have rank "
        f"{config.width // 4} and keep 6.25 % of their channels: both factors and the "
        f"channels are pruned. Masks remove {len(SPARSITIES) - 1} shares of the "
        "weights of all matrices outside embedding and head, ranked together, and are "
        f"scored on about {config.tokens:,} held-out "
        f"tokens. Weights needed: those left where the bits per byte have risen by "
        f"{100 * TOLERANCE:g} %. Training goes on for {config.more_steps} steps at a "
        "tenth of the rate, with the removed weights at zero."
    )


EXPERIMENT = Experiment(
    paper="The Emergence of Essential Sparsity (arXiv:2306.03805)",
    scales={
        "smoke": Scale(
            Pruned(
                width=32, layers=1, steps=40, tokenizer="bytes", tokens=1, more_steps=2
            ),
            methods=("dense, smallest", "dense, random"),
        ),
        "small": Scale(Pruned()),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(NEEDED, HALF, TUNED, WHOLE),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    seeds=3,
)
