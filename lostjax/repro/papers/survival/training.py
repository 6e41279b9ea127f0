"""Training of a method on a set, and what is read at the places to stop."""

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import metrics
from lostjax.nn import MLP
from lostjax.repro.papers.survival.methods import METHODS, Prediction
from lostjax.repro.papers.survival.splits import SETS, Held, Part, Problem, split_set
from lostjax.steps import fit, map_runs
from lostjax.typing import PyTree

BATCH, STOPS = 256, 6
"""Subjects a step, and places to stop."""

GRID = [(rate, decay) for rate in (1e-3, 4e-3, 16e-3) for decay in (0.01, 1.0)]
"""Learning rates and weight decays of AdamW."""

DISCORD, BRIER = "1 - C", "Brier"
SHORT, CLICKED = "1 - C, short", "1 - C, clicked"
MEASURES = (DISCORD, BRIER, SHORT, CLICKED)
"""What chooses and judges: discordance of all times, of those up to the median, and of
the most clicked; and the integrated Brier score. In percent."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A method, and how it is trained on each of some sets."""

    method: str = "hazard"
    """One of `METHODS`."""
    sets: tuple[str, ...] = ("support2", "Framingham", "rott2", "flchain", "hdfail")
    """Some of `SETS`."""
    most_rows: int = 20_000
    """Drawn of a larger set."""
    hidden: int = 64
    """0: a linear map."""
    steps: int = 600
    clicks: bool = False
    shuffled: bool = False


def train_seeds(
    config: Study, *, learning_rate: float | None, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Measure a method on every set, a value a split, and the means over the sets.

    A set that the scale leaves out is NaN.
    """
    assert learning_rate is None
    found = {name: measure_set(config, name, seeds) for name in config.sets}
    means = {
        f"{measure}, mean": np.mean([o[measure] for o in found.values()], 0).tolist()
        for measure in MEASURES
    }
    apart = {
        f"{measure}, {name}": found[name][measure]
        if name in found
        else [math.nan] * len(seeds)
        for measure in (DISCORD, BRIER)
        for name in Study.sets
    }
    return means | apart


def measure_set(
    study: Study, name: str, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train every split at every setting; judge where the others chose to stop."""
    problems = [
        split_set(
            load_set(name),
            seed=seed,
            most_rows=study.most_rows,
            batches=(study.steps, BATCH),
            shuffled=study.shuffled,
        )
        for seed in seeds
    ]
    width = problems[0].train.x_BM.shape[-1]
    # Outside of the program, where drawing takes seconds to compile.
    starts = [
        make_network(study).init(jax.random.key(seed), jnp.zeros((1, width)))["params"]
        for seed in seeds
    ]
    stacked, first = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        for each in (problems, starts)
    )
    rates, decays = jnp.asarray(GRID, jnp.float32).T

    def run(seed: tuple[Problem, PyTree], setting: tuple[Any, Any]) -> Any:
        return train(study, *seed, rate=setting[0], decay=setting[1])

    choosing, judging = jax.device_get(map_runs(run)((stacked, first), (rates, decays)))
    return {
        measure: [
            float(judged.flat[np.nanargmin(chosen)])
            for chosen, judged in zip(values, judging[measure], strict=True)
        ]
        for measure, values in choosing.items()
    }


@cache
def load_set(name: str) -> Any:
    """Load a set once."""
    return SETS[name]()


def train(
    study: Study, problem: Problem, params: PyTree, *, rate: jax.Array, decay: jax.Array
) -> tuple[dict[str, jax.Array], ...]:
    """Train on a split; returns who choose measure and who judge, at every stop."""
    method, train = METHODS[study.method], problem.train
    tx = optax.adamw(rate, weight_decay=decay)

    def loss(params: PyTree, part: Part) -> jax.Array:
        return method.loss(answer(study, params, part), part)

    def step(state: PyTree, part: Part) -> tuple[PyTree, None]:
        params, opt_state = state
        grads = jax.grad(loss)(params, part)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def batch_at(number: jax.Array) -> Part:
        rows = problem.batches_SB[number]
        part: Part = jax.tree.map(lambda leaf: leaf[rows], train)
        return part if study.clicks else part._replace(clicks_B=jnp.ones(BATCH))

    def measure(state: PyTree) -> dict[str, jax.Array]:
        return judge_params(study, state[0], problem)

    both = fit(
        step,
        (params, tx.init(params)),
        batch_at=batch_at,
        n_steps=study.steps,
        log_every=study.steps // STOPS,
        measure=measure,
    ).measured
    chosen = jax.tree.map(lambda leaf: leaf[:, 0], both)
    return chosen, jax.tree.map(lambda leaf: leaf[:, 1], both)


def make_network(study: Study) -> MLP:
    """Build the network: one hidden layer, or a linear map."""
    outputs = METHODS[study.method].outputs
    return MLP((study.hidden, outputs) if study.hidden else (outputs,))


def answer(study: Study, params: PyTree, part: Part) -> jax.Array:
    """Compute the network's outputs."""
    return jnp.asarray(make_network(study).apply({"params": params}, part.x_BM))


def judge_params(
    study: Study, params: PyTree, problem: Problem
) -> dict[str, jax.Array]:
    """Measure on both who choose and who judge, leaves (2,)."""
    known = answer(study, params, problem.train)

    def measure(held: Held) -> dict[str, jax.Array]:
        outputs = answer(study, params, held.part)
        found = METHODS[study.method].predict(outputs, known, problem)
        return judge_prediction(found, held, problem.horizons_H)

    return jax.vmap(measure)(problem.held)


def judge_prediction(
    found: Prediction, held: Held, horizons_H: jax.Array
) -> dict[str, jax.Array]:
    """Measure risks and survival, in percent."""
    part = held.part
    end = horizons_H[len(horizons_H) // 2]
    most_B = part.clicked_B
    # Three questions to one program: each of its own would compile for seconds.
    discord = jax.vmap(
        lambda risks_B, times_B, events_B: (
            1 - metrics.concordance_index(risks_B, times_B, events_B=events_B)
        )
    )(
        jnp.stack([found.risks_B, found.short_risks_B, found.risks_B]),
        # Who was censored before all others is compared with nobody.
        jnp.stack(
            [
                part.times_B,
                jnp.minimum(part.times_B, end),
                jnp.where(most_B, part.times_B, -1.0),
            ]
        ),
        jnp.stack(
            [
                part.events_B,
                part.events_B & (part.times_B <= end),
                part.events_B & most_B,
            ]
        ),
    )
    brier = metrics.integrated_brier_score(
        found.survival_BH,
        part.times_B,
        events_B=part.events_B,
        horizons_H=horizons_H,
        censoring=held.censoring,
    )
    errors = [discord[0], brier, *discord[1:]]
    return dict(zip(MEASURES, (100 * error for error in errors), strict=True))
