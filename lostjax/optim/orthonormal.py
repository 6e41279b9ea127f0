"""Subspaces spanned by orthonormal columns: of the gradient's SVD, or random.

For P (M, r) with P'P = 1 where M >= N, and P (r, N) with PP' = 1 otherwise,

    restrict(g) = P'g  (r, N)  where M >= N,     g P' (M, r)  otherwise,
    expand(u)   = P u                            u P,
    residual(g) = g - expand(restrict(g)).

P lies as the matrix does, on its longer side D: what shards one shards the other.

The residual of a gradient that lies in the subspace is rounding, and FRUGAL's sign of
rounding is a full step (its own code takes it: at density 1, 97 % of all entries). Here
entries of the residual within the rounding error of the product,

    4 sqrt(D) eps |g_j|       (|g_j| the norm of the column, or row, that is projected),

are zero; a typical entry is larger by 1 / (4 D eps), a factor of 500 at D = 4096.

The sign of a residual is no longer orthogonal to P, as in the paper: part of a
state-free step falls back into the subspace.

Sources: GaLore (Zhao et al., 2024, arXiv:2403.03507), whose side rule is the one of
`optax.contrib.galore`; FRUGAL (Zmushko et al., 2024, arXiv:2411.07837).
Cost: 4 M N r FLOPs a step, and an SVD (of a stack, its layers one by one) at a refresh;
`random_orthonormal` pays a QR, 2 D r^2 FLOPs, at every step instead of storing P.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.optim.subspace import (
    Basis,
    Cut,
    Draw,
    Subspace,
    count_kept,
    shard_batch,
    unshard_axis,
)


def gradient_svd(*, stagger: int = 1) -> Subspace:
    """Keep the leading singular vectors of the gradient at each refresh: GaLore.

    The basis P is state: float32, (*batch, M, r) or (*batch, r, N) on the longer side,
    beside moments (*batch, r, N) or (*batch, M, r) on the shorter, in float32 too, with
    r = max(1, round(density min(M, N))).

    Args:
      stagger: groups of tensors that refresh at different steps, at least 1: the cost
        of the SVDs is spread over the gap instead of falling on one step.

    Returns:
      The subspace.

    Raises:
      ValueError: where stagger < 1.
    """
    if stagger < 1:
        raise ValueError(f"stagger={stagger}: must be at least 1")

    def choose(g: jax.Array, rank: int, draw: Draw) -> jax.Array:
        del draw
        g = g.astype(jnp.promote_types(g.dtype, jnp.float32))
        left, _, right = jnp.linalg.svd(_unshard(g), full_matrices=False)
        return left[..., :rank] if _is_tall(g.shape) else right[..., :rank, :]

    return Subspace(partial(_cut, choose=choose), stored=True, stagger=stagger)


def random_orthonormal() -> Subspace:
    """Keep a random subspace, r = max(1, round(density min(M, N))) wide.

    The basis is the Q of a Gaussian matrix, made anew at every step from its seed.

    Returns:
      The subspace.
    """

    def choose(g: jax.Array, rank: int, draw: Draw) -> jax.Array:
        dtype = jnp.promote_types(g.dtype, jnp.float32)
        size = (*g.shape[:-2], max(g.shape[-2:]), rank)
        normal = jax.random.normal(draw.key(), size, dtype)
        basis = shard_batch(jnp.linalg.qr(normal)[0], g)
        return basis if _is_tall(g.shape) else _t(basis)

    return Subspace(partial(_cut, choose=choose))


def _cut(
    shape: tuple[int, ...],
    density: float,
    *,
    choose: Callable[[jax.Array, int, Draw], jax.Array],
) -> Cut:
    rank = count_kept(min(shape[-2:]), density)
    is_tall, is_whole = _is_tall(shape), rank == max(shape[-2:])
    tolerance = 4 * max(shape[-2:]) ** 0.5
    axis = len(shape) - (2 if is_tall else 1)

    def widen(g: jax.Array, basis: Basis) -> jax.Array:
        return unshard_axis(g, axis, parts=1).astype(basis.dtype)

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        g = widen(g, basis)
        return _dot(_t(basis), g) if is_tall else _dot(g, _t(basis))

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        return _dot(basis, kept) if is_tall else _dot(kept, basis)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        if is_whole:
            return jnp.zeros_like(g)
        wide = widen(g, basis)
        rest = wide - expand(kept, basis)
        # The squares of a small gradient would be zero, those of a large one infinite.
        peak = jnp.max(jnp.abs(wide), axis, keepdims=True)
        scaled = wide / jnp.where(peak > 0, peak, 1)
        norm = peak * jnp.linalg.norm(scaled, axis=axis, keepdims=True)
        noise = tolerance * float(np.finfo(wide.dtype).eps) * norm
        return jnp.where(jnp.abs(rest) <= noise, 0, rest).astype(g.dtype)

    def carry_squares(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        # Second moments of independent coordinates turn with the squared cosines.
        if is_tall:
            return _dot(jnp.square(_dot(_t(new), old)), kept).astype(kept.dtype)
        return _dot(kept, jnp.square(_dot(old, _t(new)))).astype(kept.dtype)

    return Cut(
        lambda g, draw: choose(g, rank, draw), restrict, expand, residual, carry_squares
    )


def _is_tall(shape: tuple[int, ...]) -> bool:
    return shape[-2] >= shape[-1]


def _t(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # A TPU's default precision would leave a residual of bfloat16's rounding.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _unshard(x: jax.Array) -> jax.Array:
    """Gather both matrix axes: an SVD takes whole matrices."""
    for axis in (x.ndim - 2, x.ndim - 1):
        x = unshard_axis(x, axis, parts=1)
    return x
