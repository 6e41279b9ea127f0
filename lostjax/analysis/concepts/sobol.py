"""Total Sobol indices: the share of an output's variance that needs an input.

For y = f(m) with independent m_i, uniform on [0, 1]:

    S_i = E[Var(y | all but m_i)] / Var(y)
        ~ sum_n (f(A_n) - f(A_n with m_i of B_n))^2 / (2 N Var(f(A), f(B)))

A and B are the halves of a quasi-random design of 2 R dimensions: scrambled Sobol or
Halton points of scipy. The estimator is Jansen's ("Analysis of variance designs for
model output", 1999); the sum of all S_i is 1 if f is additive and more if inputs
interact. Sobol, "Sensitivity estimates for nonlinear mathematical models", 1993.

CRAFT (arXiv:2211.10154) has N = 32 unscrambled Halton points, whose first is all zeros;
its variance is that of A. Ours are scrambled and 256 by default, because 32 or 64 can
misorder even the three inputs of Ishigami's function; the variance is that of A and B,
as SALib's. An output that does not vary has indices of 0. Cost: N (R + 2) evaluations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from lostjax.typing import Array


@runtime_checkable
class Engine(Protocol):
    """Draws points of a unit cube: `scipy.stats.qmc.Sobol` or `qmc.Halton`."""

    def __call__(self, d: int, *, scramble: bool, rng: np.random.Generator) -> Any:
        """Build a generator of points of d dimensions with a method `random(n)`."""


class TotalSobol(NamedTuple):
    """Indices of R inputs, for each of the output's values."""

    indices: Array
    """(R, ...), 0 or more; 0 of a value that does not vary."""
    variance: Array
    """Variance of each value over the design, (...)."""


def total_sobol(
    f: Callable[[Array], Any],
    n_inputs: int,
    *,
    n_designs: int = 256,
    engine: Engine = qmc.Sobol,
    seed: int = 0,
) -> TotalSobol:
    """Estimate the total Sobol indices of a function.

    Args:
      f: maps inputs (N, R) in [0, 1) to values (N, ...); called once for each of R + 2
        parts of the design.
      n_inputs: R, 1 or more.
      n_designs: N, 2 or more; a power of 2 if the engine is Sobol's, whose points are
        not balanced otherwise.
      engine: `scipy.stats.qmc.Sobol` or `scipy.stats.qmc.Halton`.
      seed: of the scrambling.

    Returns:
      Indices (R, ...), and the variances that they are shares of.

    Raises:
      ValueError: if a number is out of its range, or f returns no row for each input.
    """
    first_NR, second_NR = draw_design(n_inputs, n_designs, engine=engine, seed=seed)

    def values(inputs_NR: Array) -> Array:
        found = jnp.asarray(f(inputs_NR))
        if found.shape[:1] != (n_designs,):
            raise ValueError(
                f"f: returned shape {found.shape} for {n_designs} inputs, must be "
                f"({n_designs}, ...)"
            )
        return found

    y_N = values(first_NR)
    both_N = jnp.concatenate([y_N, values(second_NR)])
    variance = jnp.var(both_N, axis=0)
    # A rounding of y is no variance.
    largest = jnp.max(jnp.abs(both_N), axis=0)
    least = (float(np.finfo(both_N.dtype).eps) * largest) ** 2
    varies = variance > least
    scale = jnp.where(varies, variance, 1.0)
    indices = []
    for place in range(n_inputs):
        mixed_NR = first_NR.at[:, place].set(second_NR[:, place])
        unexplained = jnp.mean((y_N - values(mixed_NR)) ** 2, axis=0) / 2
        indices.append(jnp.where(varies, unexplained / scale, 0.0))
    return TotalSobol(jnp.stack(indices), variance)


def draw_design(
    n_inputs: int, n_designs: int, *, engine: Engine, seed: int
) -> tuple[Array, Array]:
    """Draw both halves of a design, (N, R) each."""
    if n_inputs < 1:
        raise ValueError(f"n_inputs={n_inputs}: must be at least 1")
    if n_designs < 2:
        raise ValueError(f"n_designs={n_designs}: must be at least 2")
    if engine is qmc.Sobol and n_designs & (n_designs - 1):
        raise ValueError(
            f"n_designs={n_designs}: must be a power of 2 for Sobol's points; "
            "scipy.stats.qmc.Halton takes any number"
        )
    rng = np.random.default_rng(seed)
    points_NK = engine(2 * n_inputs, scramble=True, rng=rng).random(n_designs)
    dtype = jnp.result_type(float)
    halves = points_NK[:, :n_inputs], points_NK[:, n_inputs:]
    first_NR, second_NR = (jnp.asarray(half, dtype) for half in halves)
    return first_NR, second_NR
