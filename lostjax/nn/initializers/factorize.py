"""Starting factors of a matrix: W0 ~ a b.

A dense initial matrix W0 (M, N) with singular value decomposition U S V' gives

    a = U_r S_r^1/2  (M, R),     b = S_r^1/2 V_r'  (R, N),

the best product of rank r, split evenly (LOST: Li et al., "LOST: Low-rank and Sparse
Pre-training for Large Language Models", 2025, arXiv 2508.02668). CoLA (Liu et al.,
2025, arXiv 2502.10940) draws both factors from a scaled normal instead.

The decomposition is exact: eigenvectors of the smaller Gram matrix, then one product
with W0. A Gaussian matrix has a flat spectrum, so a randomised decomposition with one
power iteration loses a tenth of the energy and points at other channels. The product
with W0 makes `a b` a projection of W0 whatever the rounding of small eigenvalues.
Singular vectors have no sign of their own, but act(x a) b depends on it: here the
largest entry of each left vector is positive.

Cost: 2 min(M, N)^2 max(M, N) for the Gram matrix and some 10 min(M, N)^3 for its
eigenvectors: 1.2 s for 2048 x 5461 on two x86 cores, where
numpy's full decomposition takes 9 s.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.nn.initializers.replication import replicated
from lostjax.typing import Array, Float, Key


class Factors(NamedTuple):
    """Two factors whose product `a_MR @ b_RN` is or approximates W0."""

    a_MR: jax.Array
    b_RN: jax.Array


class SingularTriples(NamedTuple):
    """The largest singular values, falling, with their left and right vectors."""

    left_MR: jax.Array
    values_R: jax.Array
    right_RN: jax.Array


@dataclasses.dataclass(frozen=True)
class InitialMatrix:
    """W0 and, once somebody asks for them, its `rank` largest singular triples.

    Factors and channels are both derived from one W0; sharing this object between
    them decomposes it at most once.
    """

    dense_MN: jax.Array
    rank: int

    @functools.cached_property
    def triples(self) -> SingularTriples:
        return top_singular_triples(self.dense_MN, self.rank)


Factorize = Callable[[Key, InitialMatrix], Factors]
"""Makes starting factors, from W0 or from the key."""


def top_singular_triples(dense_MN: Float[Array, "M N"], rank: int) -> SingularTriples:
    """Decompose a matrix exactly and keep its largest singular values.

    Args:
        dense_MN: the matrix.
        rank: how many triples, 1 to min(M, N).

    Returns:
        Orthonormal left vectors (M, R), falling singular values (R,), right vectors
        (R, N); the entry of largest size in each left vector is positive.

    Raises:
        ValueError: if rank is not within 1 to min(M, N).
    """
    n_inputs, n_outputs = dense_MN.shape
    require_rank(rank, n_inputs=n_inputs, n_outputs=n_outputs)
    dense_MN = replicated(dense_MN.astype(jnp.float32))
    if n_inputs <= n_outputs:
        left_MR = _top_eigenvectors(_product(dense_MN, dense_MN.T), rank)
        scaled_RN = _product(left_MR.T, dense_MN)
        values_R = jnp.linalg.norm(scaled_RN, axis=1)
        right_RN = scaled_RN / _positive(values_R)[:, None]
    else:
        right_RN = _top_eigenvectors(_product(dense_MN.T, dense_MN), rank).T
        scaled_MR = _product(dense_MN, right_RN.T)
        values_R = jnp.linalg.norm(scaled_MR, axis=0)
        left_MR = scaled_MR / _positive(values_R)
    signs_R = _left_signs(left_MR)
    triples = SingularTriples(left_MR * signs_R, values_R, right_RN * signs_R[:, None])
    return SingularTriples(*map(replicated, triples))


def svd_factors(key: Key, initial: InitialMatrix) -> Factors:
    """Split the best rank-r product of W0 evenly between two factors.

    Args:
        key: not used: W0 says everything.
        initial: W0 (M, N) and the rank.

    Returns:
        a (M, R) = U_r S_r^1/2 and b (R, N) = S_r^1/2 V_r'.
    """
    del key
    left_MR, values_R, right_RN = initial.triples
    roots_R = jnp.sqrt(values_R)
    return Factors(left_MR * roots_R, roots_R[:, None] * right_RN)


def scaled_normal_factors(key: Key, initial: InitialMatrix) -> Factors:
    """Draw both factors from N(0, 1) r^-1/4 (M + N)^-1/4, as CoLA does.

    Args:
        key: the randomness of both factors.
        initial: only its shape and rank are read.

    Returns:
        a (M, R) and b (R, N); a product's entry has variance 1 / (M + N).
    """
    (n_inputs, n_outputs), rank = initial.dense_MN.shape, initial.rank
    require_rank(rank, n_inputs=n_inputs, n_outputs=n_outputs)
    key_a, key_b = jax.random.split(key)
    scale = (rank * (n_inputs + n_outputs)) ** -0.25
    return Factors(
        scale * jax.random.normal(key_a, (n_inputs, rank)),
        scale * jax.random.normal(key_b, (rank, n_outputs)),
    )


def squared_residual_norms(initial: InitialMatrix) -> Float[Array, "M"]:
    """Squared norm of each input channel of what rank r leaves of W0.

    The residual is never made: ||W0[m]||^2 - sum_i s_i^2 U[m, i]^2.

    Args:
        initial: W0 (M, N) and the rank.

    Returns:
        One squared norm (M,) per input channel, rounded to zero from below.
    """
    left_MR, values_R, _ = initial.triples
    dense_MN = replicated(initial.dense_MN.astype(jnp.float32))
    taken_M = jnp.sum(jnp.square(left_MR * values_R), axis=1)
    whole_M = jnp.sum(jnp.square(dense_MN), axis=1)
    norms_M: jax.Array = jnp.maximum(whole_M - taken_M, 0.0)
    return norms_M


def require_rank(rank: int, *, n_inputs: int, n_outputs: int) -> None:
    """Refuse a rank that a matrix (n_inputs, n_outputs) cannot have."""
    largest = min(n_inputs, n_outputs)
    if not 1 <= rank <= largest:
        raise ValueError(
            f"rank={rank} is not within 1 to {largest}, the smaller side of a matrix "
            f"of {n_inputs} inputs and {n_outputs} outputs"
        )


def _top_eigenvectors(gram_DD: Float[Array, "D D"], rank: int) -> Float[Array, "D R"]:
    # eigh sorts eigenvalues upwards: the last columns are the largest.
    _, vectors_DD = jnp.linalg.eigh(replicated(gram_DD))
    top_DR: jax.Array = vectors_DD[:, ::-1][:, :rank]
    return top_DR


def _left_signs(left_MR: Float[Array, "M R"]) -> Float[Array, "R"]:
    largest_R = jnp.argmax(jnp.abs(left_MR), axis=0)
    entries_R = jnp.take_along_axis(left_MR, largest_R[None, :], axis=0)[0]
    return jnp.where(entries_R < 0, -1.0, 1.0)


def _positive(values_R: Float[Array, "R"]) -> Float[Array, "R"]:
    # A singular value of zero has a zero vector beside it, never 0 / 0.
    return jnp.maximum(values_R, np.finfo(np.float32).tiny)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    # TPUs multiply in bfloat16 unless told otherwise: too coarse for eigenvectors.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
