"""Non-negative least squares: how much of each concept an activation has.

    u = argmin_(u >= 0) |a - u W|^2

The solution solves the normal equations on the set S of concepts with u > 0. S is found
by block principal pivoting (Kim & Park, "Fast nonnegative matrix factorization: an
active-set-like method and comparisons", 2011): all concepts on the wrong side change
sides at once, or the last one alone if that has not helped three times, which ends.

The gradient is the implicit one, in closed form: S is a constant, and

    du_S / da = (W_S W_S^T)^-1 W_S,          0 elsewhere

which is what differentiating one solution of these equations comes to; the search is
not differentiated. CRAFT (arXiv:2211.10154) solves by ADMM and differentiates the KKT
system. On the edge, where some u is 0 by chance, the derivative is one-sided.

The equations are squared in condition and have a ridge of ten roundings, relative to
the largest |w|^2: concepts that depend on each other share what they explain. Cost for
each activation: about ten solves of R x R.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.checks import require_weights
from lostjax.typing import Array, Float

_PATIENCE = 3  # exchanges of all that may fail to help, as the authors have it


def nnls(a: Float[Array, "... M"], w_RM: Float[Array, "R M"]) -> Float[Array, "... R"]:
    """Solve non-negative least squares; differentiable in both arguments.

    Args:
      a: activations (..., M); each position of its leading axes is a problem.
      w_RM: concepts (R, M), finite and not negative, as of `nmf`.

    Returns:
      How much of each concept each activation has, (..., R), 0 or more; 0 for a concept
      of zeros.

    Raises:
      ValueError: if the shapes do not fit, or a known concept is negative or NaN.
    """
    if w_RM.shape[1] != a.shape[-1]:
        raise ValueError(
            f"w_RM: shape {w_RM.shape}, must have {a.shape[-1]} columns as a has"
        )
    require_weights("w_RM", w_RM)
    u: Array = _solve_all(a, w_RM)
    return u


@jax.jit
def _solve_all(a: Array, w_RM: Array) -> Array:
    gram_RR = w_RM @ w_RM.T
    # A concept of zeros has an equation of its own, u = 0.
    gram_RR += jnp.diag(jnp.where(jnp.diag(gram_RR) > 0, 0.0, 1.0))
    largest = jax.lax.stop_gradient(jnp.max(jnp.diag(gram_RR)))
    ridge = 10 * float(np.finfo(gram_RR.dtype).eps) * largest
    gram_RR += ridge * jnp.eye(len(w_RM), dtype=gram_RR.dtype)
    target_NR = (a @ w_RM.T).reshape(-1, len(w_RM))

    def solve(target_R: Array) -> Array:
        known: Any = jax.lax.stop_gradient((gram_RR, target_R))
        support_R = _find_support(*known)
        return _solve_on(support_R, gram_RR, target_R)

    # What is below 0 is so by rounding.
    u_NR = jnp.maximum(jax.vmap(solve)(target_NR), 0.0)
    return u_NR.reshape(*a.shape[:-1], len(w_RM))


def _solve_on(support_R: Array, gram_RR: Array, target_R: Array) -> Array:
    """Solve the equations of a set of concepts; the others are 0."""
    both_RR = support_R[:, None] & support_R
    rest_RR = jnp.diag(jnp.where(support_R, 0.0, 1.0)).astype(gram_RR.dtype)
    matrix_RR = jnp.where(both_RR, gram_RR, rest_RR)
    u_R = jnp.linalg.solve(matrix_RR, jnp.where(support_R, target_R, 0.0))
    return jnp.where(support_R, u_R, 0.0)


def _find_support(gram_RR: Array, target_R: Array) -> Array:
    """Find the concepts with u > 0."""
    R = len(target_R)
    scale_R = jnp.sqrt(jnp.diag(gram_RR))
    # What rounding alone makes of a 0: without it the search would not end.
    eps = 10 * float(np.finfo(target_R.dtype).eps)
    size = jnp.max(jnp.abs(target_R) / scale_R)

    def wrong(support_R: Array) -> Array:
        u_R = _solve_on(support_R, gram_RR, target_R)
        slope_R = gram_RR @ u_R - target_R
        below_R = support_R & (u_R * scale_R < -eps * size)
        return below_R | (~support_R & (slope_R / scale_R < -eps * size))

    def advance(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        support_R, wrong_R, fewest, patience, steps = carry
        count = jnp.sum(wrong_R, dtype=jnp.int32)
        helped = count < fewest
        patience = jnp.where(helped, _PATIENCE, patience - 1)
        last_R = jnp.arange(R) == jnp.max(jnp.where(wrong_R, jnp.arange(R), -1))
        exchanged_R = jnp.where(helped | (patience >= 0), wrong_R, last_R)
        support_R = support_R ^ exchanged_R
        fewest = jnp.minimum(fewest, count)
        return support_R, wrong(support_R), fewest, patience, steps + 1

    def goes_on(carry: tuple[Array, ...]) -> Array:
        _, wrong_R, _, _, steps = carry
        return jnp.any(wrong_R) & (steps < 20 * R + 20)

    none_R = jnp.zeros(R, bool)
    counts = (jnp.int32(number) for number in (R + 1, _PATIENCE, 0))
    begun: tuple[Array, ...] = (none_R, wrong(none_R), *counts)
    support_R: Array = jax.lax.while_loop(goes_on, advance, begun)[0]
    return support_R
