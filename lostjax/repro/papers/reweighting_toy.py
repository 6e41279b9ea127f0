"""Loss-based weights in linear regression, where half of the rows are copies.

The toy problem of arXiv:2502.06733 (see `repro.papers.reweighting`): its claim is that
lin_upper brings the held-out loss down faster than every other shape, and quadratic
faster than uniform weights, at temperature 1. Its data are made here after its idea:

    y = x w*        w* on the unit sphere of d dimensions
    x ~ N(0, I)     for the hard half, each row its own; held-out rows are like them
    x               for the easy half, a copy of one of a few such inputs

There is no noise and no outlier. Gradient descent from 0 on all rows at once,

    w <- w - s sum_i q_i grad (x_i w - y_i)^2 / 2        q from `losses.sample_weights`

has nothing random: a seed is a data set, which all methods share. A step size s is as
good as its mean over all of them: the best of a single one is at the edge of what does
not diverge on it. The copies are a few steep directions, learnt at once, whose
curvature bounds s for all others: the less they weigh, the larger it can be.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax import losses
from lostjax.repro.claims import Claim, Comparison, Cost, judge
from lostjax.repro.tune import tune_by_mean
from lostjax.sweep.cells import describe_machine
from lostjax.typing import Array, Float

LOSS = "log10 of the held-out loss"
STEPS = "steps to 1 % of the first loss"
"""Names of the measures."""

TEMPERATURE = 1.0
TOLERANCE = 0.01
"""Share of the held-out loss at the start that `STEPS` counts to."""


class ToyScale(NamedTuple):
    """How large the problem is."""

    name: str
    dimensions: int = 32
    rows: int = 1024
    """Half of them easy."""
    copied: int = 2
    """Inputs that the easy half is copies of."""
    steps: int = 50
    """After which the held-out loss is taken; counting goes on four times as long."""


SCALES = {
    "smoke": ToyScale("smoke", dimensions=16, rows=256),
    "small": ToyScale("small"),
}

METHODS: dict[str, losses.Shape | None] = {
    "lin_upper": losses.lin_upper,
    "uniform": None,
    "quadratic": losses.quadratic,
    "upper": losses.upper,
    "extremes": losses.extremes,
}

RATES = (0.0625, 0.125, 0.25)
"""Grid of step sizes, widened where the best lies at its edge."""


COMPARISONS = (
    Comparison("lin_upper", "uniform", "lin_upper is better than uniform", LOSS),
    Comparison("lin_upper", "uniform", "lin_upper is faster than uniform", STEPS),
    Comparison("lin_upper", "quadratic", "lin_upper is better than quadratic", LOSS),
    Comparison("lin_upper", "upper", "lin_upper is better than upper", LOSS),
    Comparison("lin_upper", "extremes", "lin_upper is better than extremes", LOSS),
    Comparison("quadratic", "uniform", "quadratic is better than uniform", LOSS),
    Comparison(
        "uniform", "extremes", "extremes, the control, is worse than uniform", LOSS
    ),
)


class Problem(NamedTuple):
    """A data set and what it was made with."""

    x_BD: Float[Array, "B D"]
    true_D: Float[Array, "D"]


class Descent(NamedTuple):
    """What came of one run; NaN where it diverged or did not get there."""

    loss: float
    """log10 of the held-out loss after `ToyScale.steps`."""
    steps: float
    """Until the held-out loss is `TOLERANCE` of the first."""


def run(scale: ToyScale, *, seeds: int, directory: Path, workers: int = 1) -> Claim:
    """Measure the claim, in seconds.

    Args:
      scale: one of `SCALES`.
      seeds: how many data sets a row, at least 2.
      directory: not used, for no run is worth keeping.
      workers: not used.

    Returns:
      The claim with its rows and findings.

    Raises:
      SweepError: where some method's best step size was not found.
    """
    began = time.monotonic()
    problems = [make_problem(scale, seed=seed) for seed in range(seeds)]
    rows, runs = [], 0
    for name, shape in METHODS.items():
        measure = partial(_measure, problems, shape=shape, steps=scale.steps)
        row = tune_by_mean(name, measure, rates=RATES)
        rows.append(row)
        runs += len(row.swept) * seeds
    return Claim(
        name=f"reweighting_toy-{scale.name}",
        paper="The toy of Dynamic Loss-Based Sample Reweighting (arXiv:2502.06733)",
        setting=f"Every run: linear regression in {scale.dimensions} dimensions on "
        f"{scale.rows} rows without noise, half of them copies of {scale.copied} "
        "inputs, by gradient descent on all rows at once; weights have the temperature "
        f"{TEMPERATURE:g}. The held-out loss is that after {scale.steps} steps, over "
        "inputs like those of the other half. A seed is a data set, the same for every "
        "method. The step size of each method is the best of a grid that doubles and "
        "is refined once around its best, by the mean over all seeds, with worse ones "
        "on either side.",
        rows=tuple(rows),
        findings=judge(rows, COMPARISONS),
        cost=Cost(
            runs=runs,
            tokens=0,
            seconds=math.ceil(time.monotonic() - began),
            machines=(f"{describe_machine()}, jax {jax.__version__}",),
        ),
    )


def make_problem(scale: ToyScale, *, seed: int) -> Problem:
    """Draw a data set: the easy half first, copies as equal in number as can be."""
    generator = np.random.default_rng(seed)
    hard = scale.rows // 2
    inputs = generator.normal(size=(scale.copied + hard, scale.dimensions))
    copies = np.arange(scale.rows - hard) % scale.copied
    true = generator.normal(size=scale.dimensions)
    return Problem(
        x_BD=jnp.asarray(
            np.concatenate([inputs[copies], inputs[scale.copied :]]), jnp.float32
        ),
        true_D=jnp.asarray(true / np.linalg.norm(true), jnp.float32),
    )


@partial(jax.jit, static_argnames=("shape", "steps"))
def descend(
    problem: Problem,
    *,
    shape: losses.Shape | None,
    step_size: float | Float[Array, ""],
    steps: int,
) -> Float[Array, "T"]:
    """Go down from 0.

    Args:
      problem: what is learnt.
      shape: of the weights; None for equal ones.
      step_size: positive.
      steps: how many.

    Returns:
      The held-out loss after 0, 1, ..., steps steps: half the squared distance to the
      true weights, which is its mean over inputs from N(0, I).
    """
    temperature = math.inf if shape is None else TEMPERATURE

    def step(off_D: Array, _: None) -> tuple[Array, Array]:
        """Move what separates the learnt weights from the true ones."""
        errors_B = problem.x_BD @ off_D
        weights_B = losses.sample_weights(
            jnp.square(errors_B) / 2,
            shape=shape or losses.lin_upper,
            temperature=temperature,
        )
        moved_D = off_D - step_size * ((weights_B * errors_B) @ problem.x_BD)
        return moved_D, jnp.sum(jnp.square(moved_D)) / 2

    first = jnp.sum(jnp.square(problem.true_D)) / 2
    later: Array
    _, later = jax.lax.scan(step, -problem.true_D, None, length=steps)
    return jnp.concatenate([first[None], later])


def _descend(
    problem: Problem, step_size: float, *, shape: losses.Shape | None, steps: int
) -> Descent:
    """Read the measures off one run."""
    found = np.asarray(
        descend(problem, shape=shape, step_size=step_size, steps=4 * steps), np.float64
    )
    reached = np.flatnonzero(found <= TOLERANCE * found[0])
    return Descent(
        loss=math.log10(found[steps]) if found[steps] < found[0] else math.nan,
        steps=float(reached[0]) if len(reached) else math.nan,
    )


def _measure(
    problems: Sequence[Problem],
    step_size: float,
    *,
    shape: losses.Shape | None,
    steps: int,
) -> Mapping[str, tuple[float, ...]]:
    """Read the measures off one run a problem."""
    found = [_descend(one, step_size, shape=shape, steps=steps) for one in problems]
    return {
        LOSS: tuple(one.loss for one in found),
        STEPS: tuple(one.steps for one in found),
    }
