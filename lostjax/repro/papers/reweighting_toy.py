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

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax import losses
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import Comparison
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_BY_MEAN
from lostjax.typing import Array, Float

LOSS = "log10 of the held-out loss"
STEPS = "steps to 1 % of the first loss"
"""Names of the measures."""

TOLERANCE = 0.01
"""Share of the held-out loss at the start that `STEPS` counts to."""


SHAPES: dict[str, losses.Shape | None] = {
    "lin_upper": losses.lin_upper,
    "uniform": None,
    "quadratic": losses.quadratic,
    "upper": losses.upper,
    "extremes": losses.extremes,
}
"""The methods: what weights are a function of losses."""


@dataclasses.dataclass(frozen=True)
class Toy:
    """A problem and how it is solved."""

    shape: str = "uniform"
    """One of `SHAPES`."""
    temperature: float = 1.0
    dimensions: int = 32
    rows: int = 1024
    """Half of them easy."""
    copied: int = 2
    """Inputs that the easy half is copies of."""
    steps: int = 50
    """After which the held-out loss is taken; counting continues four times as long."""


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


def make_problem(toy: Toy, *, seed: int) -> Problem:
    """Draw a data set: the easy half first, copies as equal in number as can be."""
    generator = np.random.default_rng(seed)
    hard = toy.rows // 2
    inputs = generator.normal(size=(toy.copied + hard, toy.dimensions))
    copies = np.arange(toy.rows - hard) % toy.copied
    true = generator.normal(size=toy.dimensions)
    return Problem(
        x_BD=jnp.asarray(
            np.concatenate([inputs[copies], inputs[toy.copied :]]), jnp.float32
        ),
        true_D=jnp.asarray(true / np.linalg.norm(true), jnp.float32),
    )


@partial(jax.jit, static_argnames=("toy", "steps"))
def descend(
    problem: Problem, *, toy: Toy, step_size: float | Float[Array, ""], steps: int
) -> Float[Array, "T"]:
    """Descend from 0.

    Args:
      problem: what is learnt.
      toy: names the shape of the weights and their temperature.
      step_size: positive.
      steps: how many.

    Returns:
      The held-out loss after 0, 1, ..., steps steps: half the squared distance to the
      true weights, which is its mean over inputs from N(0, I).
    """
    shape = SHAPES[toy.shape]

    def step(off_D: Array, _: None) -> tuple[Array, Array]:
        """Move what separates the learnt weights from the true ones."""
        errors_B = problem.x_BD @ off_D
        weights_B = losses.sample_weights(
            jnp.square(errors_B) / 2,
            shape=shape or losses.lin_upper,
            temperature=toy.temperature if shape else math.inf,
        )
        moved_D = off_D - step_size * ((weights_B * errors_B) @ problem.x_BD)
        return moved_D, jnp.sum(jnp.square(moved_D)) / 2

    first = jnp.sum(jnp.square(problem.true_D)) / 2
    later: Array
    _, later = jax.lax.scan(step, -problem.true_D, None, length=steps)
    return jnp.concatenate([first[None], later])


def train(toy: Toy, step_size: float | None, seed: int) -> dict[str, float]:
    """Measure one descent; NaN if it diverged or did not get there."""
    assert step_size is not None
    problem = make_problem(toy, seed=seed)
    curve = descend(problem, toy=toy, step_size=step_size, steps=4 * toy.steps)
    found = np.asarray(curve, np.float64)
    reached = np.flatnonzero(found <= TOLERANCE * found[0])
    last = found[toy.steps]
    return {
        LOSS: math.log10(last) if last < found[0] else math.nan,
        STEPS: float(reached[0]) if len(reached) else math.nan,
    }


def build_methods(scale: Scale[Toy]) -> dict[str, Toy]:
    """Name every shape."""
    return {shape: dataclasses.replace(scale.config, shape=shape) for shape in SHAPES}


def describe(scale: Scale[Toy]) -> str:
    """Describe the setting."""
    toy = scale.config
    return (
        f"Every run: linear regression in {toy.dimensions} dimensions on {toy.rows} "
        f"rows without noise, half of them copies of {toy.copied} inputs, by gradient "
        f"descent on all rows at once; weights have the temperature "
        f"{toy.temperature:g}. The held-out loss is that after {toy.steps} steps, over "
        "inputs like those of the other half. A seed is a data set, the same for every "
        "method. Learning rates are step sizes."
    )


RATES = (0.0625, 0.125, 0.25)

EXPERIMENT = Experiment(
    paper="The toy of Dynamic Loss-Based Sample Reweighting (arXiv:2502.06733)",
    scales={
        "smoke": Scale(Toy(dimensions=16, rows=256), RATES),
        "small": Scale(Toy(), RATES),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(LOSS, STEPS),
    train=each_seed(train),
    tuning=TUNE_BY_MEAN,
    setting=describe,
    seeds=20,
)
