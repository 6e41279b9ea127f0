"""Initial factors of a matrix: W0 ~ a b.

A dense initial matrix W0 (M, N) has the singular value decomposition U S V'. The
factors

    a = U_r S_r^1/2  (M, R),     b = S_r^1/2 V_r'  (R, N)

split its best rank-r approximation evenly (LOST: Li et al., "LOST: Low-rank and Sparse
Pre-training for Large Language Models", 2025, arXiv 2508.02668). CoLA (Liu et al.,
2025, arXiv 2502.10940) draws both factors from a scaled normal distribution instead.

The decomposition is exact: eigenvectors of the smaller Gram matrix, then one product
with W0. A Gaussian matrix has a flat spectrum, so that a randomised decomposition with
one power iteration would lose a tenth of the energy and select other channels. Because
of the product with W0, `a b` is a projection of W0 even if small eigenvalues are
rounded. The sign of a singular vector is arbitrary, but act(x a) b depends on it: here
the largest entry of each left vector is positive.

Cost: 2 min(M, N)^2 max(M, N) FLOPs for the Gram matrix and about 10 min(M, N)^3 for its
eigenvectors: 1.2 s for 2048 x 5461 on two x86 cores, compared with 9 s for numpy's full
decomposition.
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
    """Two factors whose product `a_MR @ b_RN` equals or approximates W0."""

    a_MR: jax.Array
    b_RN: jax.Array


class SingularTriples(NamedTuple):
    """The largest singular values, in descending order, with their vectors."""

    left_MR: jax.Array
    values_R: jax.Array
    right_RN: jax.Array


@dataclasses.dataclass(frozen=True)
class InitialMatrix:
    """W0 and its `rank` largest singular triples, computed on first access.

    Factors and channels are both derived from one W0; sharing this object between them
    computes the decomposition at most once.

    Attributes:
        dense_MN: the initial matrix W0.
        rank: number of singular triples R, 1 to min(M, N).
    """

    dense_MN: jax.Array
    rank: int

    @functools.cached_property
    def triples(self) -> SingularTriples:
        return top_singular_triples(self.dense_MN, self.rank)


Factorize = Callable[[Key, InitialMatrix], Factors]
"""Function from a key and W0 to initial factors; it may ignore either."""


def top_singular_triples(dense_MN: Float[Array, "M N"], rank: int) -> SingularTriples:
    """Compute the largest singular triples of a matrix exactly.

    Args:
        dense_MN: the matrix (M, N).
        rank: number of triples R, 1 to min(M, N).

    Returns:
        Orthonormal left vectors (M, R), descending singular values (R,) and right
        vectors (R, N), float32; the entry of largest absolute value in each left vector
        is positive.

    Raises:
        ValueError: if `rank` is not in [1, min(M, N)].
    """
    n_inputs, n_outputs = dense_MN.shape
    require_rank(rank, n_inputs=n_inputs, n_outputs=n_outputs)
    # Replicated: a sharded Gram matrix would round differently on every mesh.
    dense_MN = replicated(dense_MN.astype(jnp.float32))
    # Decompose the smaller Gram matrix: eigh costs the cube of its side.
    if n_inputs <= n_outputs:
        left_MR = _top_eigenvectors(_product(dense_MN, dense_MN.T), rank)
        scaled_RN = _product(left_MR.T, dense_MN)
        # Norms of the projection: the roots of eigenvalues would lose half the digits.
        values_R = jnp.linalg.norm(scaled_RN, axis=1)
        right_RN = scaled_RN / _positive(values_R)[:, None]
    else:
        right_RN = _top_eigenvectors(_product(dense_MN.T, dense_MN), rank).T
        scaled_MR = _product(dense_MN, right_RN.T)
        values_R = jnp.linalg.norm(scaled_MR, axis=0)
        left_MR = scaled_MR / _positive(values_R)
    # Flip left and right vectors together: the product stays unchanged.
    signs_R = _left_signs(left_MR)
    triples = SingularTriples(left_MR * signs_R, values_R, right_RN * signs_R[:, None])
    return SingularTriples(*map(replicated, triples))


def svd_factors(key: Key, initial: InitialMatrix) -> Factors:
    """Split the best rank-r approximation of W0 evenly between two factors.

    Args:
        key: not used; W0 determines the factors.
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
        key: random key of both factors.
        initial: W0; only its shape and the rank are used.

    Returns:
        a (M, R) and b (R, N); the entries of a b have variance 1 / (M + N).

    Raises:
        ValueError: if the rank is not in [1, min(M, N)].
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
    """Compute the squared norm of every input channel of the rank-r residual of W0.

    The residual itself is not built: its squared norms are
    ||W0[m]||^2 - sum_i s_i^2 U[m, i]^2.

    Args:
        initial: W0 (M, N) and the rank.

    Returns:
        Squared norms (M,), float32, >= 0.
    """
    left_MR, values_R, _ = initial.triples
    dense_MN = replicated(initial.dense_MN.astype(jnp.float32))
    taken_M = jnp.sum(jnp.square(left_MR * values_R), axis=1)
    whole_M = jnp.sum(jnp.square(dense_MN), axis=1)
    # The difference of two rounded sums can be slightly negative: clip it at 0.
    norms_M: jax.Array = jnp.maximum(whole_M - taken_M, 0.0)
    return norms_M


def require_rank(rank: int, *, n_inputs: int, n_outputs: int) -> None:
    """Check that a matrix (n_inputs, n_outputs) can have the given rank.

    Raises:
        ValueError: if `rank` is not in [1, min(n_inputs, n_outputs)].
    """
    largest = min(n_inputs, n_outputs)
    if not 1 <= rank <= largest:
        raise ValueError(
            f"rank={rank} is not within 1 to {largest}, the smaller side of a matrix "
            f"of {n_inputs} inputs and {n_outputs} outputs"
        )


def _top_eigenvectors(gram_DD: Float[Array, "D D"], rank: int) -> Float[Array, "D R"]:
    # eigh sorts eigenvalues in ascending order: the last columns are the largest.
    _, vectors_DD = jnp.linalg.eigh(replicated(gram_DD))
    top_DR: jax.Array = vectors_DD[:, ::-1][:, :rank]
    return top_DR


def _left_signs(left_MR: Float[Array, "M R"]) -> Float[Array, "R"]:
    # The entry of largest absolute value is far from 0: rounding cannot flip its sign.
    largest_R = jnp.argmax(jnp.abs(left_MR), axis=0)
    entries_R = jnp.take_along_axis(left_MR, largest_R[None, :], axis=0)[0]
    return jnp.where(entries_R < 0, -1.0, 1.0)


def _positive(values_R: Float[Array, "R"]) -> Float[Array, "R"]:
    # Guard against 0 / 0: a zero singular value gets a zero vector.
    return jnp.maximum(values_R, np.finfo(np.float32).tiny)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    # The default TPU precision multiplies in bfloat16, too coarse for eigenvectors.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
