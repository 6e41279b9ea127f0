"""Non-negative matrix factorisation: a few non-negative rows that others are made of.

    min_(U >= 0, W >= 0) 1/2 |A - U W|_F^2          A (B, M), U (B, R), W (R, M)

Each step sets every column of U, and then every row of W, to its best value with the
others fixed, one after the other (hierarchical alternating least squares, Cichocki,
Zdunek & Amari, 2007; the order and the start are those of scikit-learn's coordinate
descent without shuffling):

    u_r = max(0, u_r + (A W^T - U W W^T)_r / |w_r|^2)

The start is NNDSVDa: of each singular pair the stronger of its positive and its
negative part, and the mean of A in place of zeros (Boutsidis & Gallopoulos, "SVD based
initialization", 2008). CRAFT (arXiv:2211.10154) uses scikit-learn's NMF.

The error decreases in every step; the minimum is a local one. Rows of W are scaled to
a norm of 1, because only the product U W is determined. Cost for each step: 4 B M R
FLOPs beside 2 (B + M) R^2; the start is one SVD.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.checks import require_examples, require_not_negative, require_weights
from lostjax.typing import Array, Float, Scalar


class Factorisation(NamedTuple):
    """A ~ U W; a concept is a row of W."""

    u_BR: Array
    """How much of each concept each row of A has, (B, R), not negative."""
    w_RM: Array
    """Concepts (R, M), not negative, of norm 1; a concept that is not used is 0."""
    error: Array
    """|A - U W| / |A|, a scalar between 0 and 1."""
    n_steps: Array
    """Steps that were taken, a scalar."""
    converged: Array
    """Whether the error fell by less than the tolerance in the last step."""


def nmf(
    a_BM: Float[Array, "B M"],
    rank: int,
    *,
    max_steps: int = 200,
    tolerance: float | int = 1e-4,
) -> Factorisation:
    """Factorise activations into concepts.

    Args:
      a_BM: activations (B, M), finite and not negative, such as those after a ReLU. For
        signed ones take the positive and the negative parts beside each other.
      rank: R, number of concepts, from 1 to min(B, M).
      max_steps: at most, 1 or more.
      tolerance: stop if a step lowers the error by less than this share of |A|, 0 or
        more; 0 never stops early.

    Returns:
      The factors; no random number is used. All zeros have factors of zeros.

    Raises:
      ValueError: if an argument is out of its range; NaN or a negative activation in an
        array that is traced is not seen.
    """
    require_examples("a_BM", a_BM)
    require_weights("a_BM", a_BM)
    require_not_negative("tolerance", tolerance)
    if not 1 <= rank <= min(a_BM.shape):
        raise ValueError(f"rank={rank}: must lie in [1, {min(a_BM.shape)}]")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: must be at least 1")
    found: Factorisation = _factorise(a_BM, rank, max_steps, tolerance)
    return found


@partial(jax.jit, static_argnames="rank")
def _factorise(
    a_BM: Array, rank: int, max_steps: Scalar, tolerance: Scalar
) -> Factorisation:
    u_BR, w_RM = start_factors(a_BM, rank)
    size = _norm(a_BM)

    def error(u_BR: Array, w_RM: Array) -> Array:
        return _norm(a_BM - u_BR @ w_RM) / jnp.where(size > 0, size, 1.0)

    def advance(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        u_BR, w_RM, before, _, steps = carry
        u_BR = _improve(u_BR, a_BM @ w_RM.T, w_RM @ w_RM.T)
        w_RM = _improve(w_RM.T, a_BM.T @ u_BR, u_BR.T @ u_BR).T
        now = error(u_BR, w_RM)
        return u_BR, w_RM, now, before - now, steps + 1

    def goes_on(carry: tuple[Array, ...]) -> Array:
        *_, gain, steps = carry
        return (steps < max_steps) & ((gain >= tolerance) | (tolerance == 0))

    first = error(u_BR, w_RM)
    gain = jnp.full_like(first, jnp.inf)
    begun: tuple[Array, ...] = (u_BR, w_RM, first, gain, jnp.int32(0))
    u_BR, w_RM, last, gain, steps = jax.lax.while_loop(goes_on, advance, begun)
    length_R = jnp.linalg.norm(w_RM, axis=1)
    w_RM = w_RM / jnp.where(length_R > 0, length_R, 1.0)[:, None]
    return Factorisation(u_BR * length_R, w_RM, last, steps, gain < tolerance)


def start_factors(a_BM: Array, rank: int) -> tuple[Array, Array]:
    """Compute the factors that the steps start from, by NNDSVDa."""
    left_BK, values_K, right_KM = jnp.linalg.svd(a_BM, full_matrices=False)
    left_RB, right_RM = left_BK.T[:rank], right_KM[:rank]
    parts = []
    for sign in (1, -1):
        x_RB, y_RM = jnp.maximum(sign * left_RB, 0), jnp.maximum(sign * right_RM, 0)
        x_R, y_R = (jnp.linalg.norm(part, axis=1) for part in (x_RB, y_RM))
        parts.append((x_RB, y_RM, x_R, y_R, x_R * y_R))
    negative_R = parts[1][-1] > parts[0][-1]
    x_RB, y_RM, x_R, y_R, both_R = (
        jnp.where(negative_R if n.ndim == 1 else negative_R[:, None], n, p)
        for p, n in zip(*parts, strict=True)
    )
    # 0 / 0 of a singular value of 0, whose vectors may be anything.
    share_R = jnp.sqrt(values_K[:rank] * both_R)
    u_BR = (x_RB * (share_R / jnp.where(x_R > 0, x_R, 1))[:, None]).T
    w_RM = y_RM * (share_R / jnp.where(y_R > 0, y_R, 1))[:, None]
    tiny, mean = 1e-6, jnp.mean(a_BM)  # scikit-learn's
    return jnp.where(u_BR < tiny, mean, u_BR), jnp.where(w_RM < tiny, mean, w_RM)


def _improve(x_NR: Array, target_NR: Array, gram_RR: Array) -> Array:
    """Set every column to its best value, the others fixed, one after the other."""

    def improve_one(r: Array, x_NR: Array) -> Array:
        step_N = (target_NR[:, r] - x_NR @ gram_RR[:, r]) / jnp.where(
            gram_RR[r, r] > 0, gram_RR[r, r], 1.0
        )
        # A concept of zeros has no best value: it stays.
        return x_NR.at[:, r].set(jnp.maximum(x_NR[:, r] + step_N, 0.0))

    improved_NR: Array = jax.lax.fori_loop(0, x_NR.shape[1], improve_one, x_NR)
    return improved_NR


def _norm(x_BM: Array) -> Array:
    return jnp.sqrt(jnp.sum(x_BM**2))
