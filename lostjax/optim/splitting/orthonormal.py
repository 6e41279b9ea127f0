"""Subspaces spanned by orthonormal vectors: of the gradient's SVD, or random.

For P with r orthonormal columns or rows, on one side of a matrix (M, N),

                    P (M, r), P'P = 1      P (r, N), PP' = 1
    restrict(g)     P'g  (r, N)            g P' (M, r)
    expand(u)       P u                    u P
    residual(g)     g - expand(restrict(g))

P lies as the matrix does: what shards one shards the other. GaLore (Zhao et al., 2024,
arXiv:2403.03507) and FRUGAL (Zmushko et al., 2024, arXiv:2411.07837) project the
shorter side, which keeps r max(M, N) entries, the density's share of the matrix;
`optax.contrib.galore` projects the longer one, which keeps r min(M, N), less where a
matrix is not square, and has the larger P. Both are here.

The residual of a gradient that lies in the subspace is rounding, and FRUGAL's sign of
rounding is a full step (its own code takes it: at density 1, 97 % of all entries). Here
entries of the residual within the rounding error of the product,

    4 sqrt(D) eps |g_j|    (D the side that is projected, |g_j| the norm along it),

are zero; a typical entry is larger by 1 / (4 D eps), a factor of 500 at D = 4096.

The sign of a residual is no longer orthogonal to P, as in the paper: part of a
state-free step falls back into the subspace.

Cost: 4 M N r FLOPs a step, and an SVD (of a stack, its layers one by one) at a refresh;
`random_orthonormal` pays a QR, 2 D r^2 FLOPs, at every step instead of storing P.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.optim.splitting.subspace import (
    Basis,
    Cut,
    Draw,
    Subspace,
    count_kept,
    shard_batch,
    unshard_axis,
)

Side = Callable[[int, int], int]
"""`side(M, N) -> axis`, -2 or -1: which side of a matrix is projected."""


def shorter_side(m: int, n: int) -> int:
    """Project the shorter side, inputs where both are equal: GaLore's rule."""
    return -2 if m <= n else -1


def longer_side(m: int, n: int) -> int:
    """Project the longer side, inputs where both are equal: optax's rule."""
    return -2 if m >= n else -1


def gradient_svd(*, side: Side = shorter_side, stagger: int = 1) -> Subspace:
    """Keep the leading singular vectors of the gradient at each refresh: GaLore.

    The basis P is state, of D r entries where D is the side that is projected and
    r = max(1, round(density min(M, N))). It and the moments are float32, whatever the
    gradient is.

    Args:
      side: which side is projected: `shorter_side` or `longer_side`.
      stagger: groups of tensors that refresh at different steps, at least 1: the cost
        of the SVDs is spread over the gap instead of falling on one step.

    Returns:
      The subspace.

    Raises:
      ValueError: where stagger < 1.
    """
    if stagger < 1:
        raise ValueError(f"stagger={stagger}: must be at least 1")

    def choose(g: jax.Array, rank: int, axis: int, draw: Draw) -> jax.Array:
        del draw
        g = g.astype(jnp.promote_types(g.dtype, jnp.float32))
        left, _, right = jnp.linalg.svd(_unshard(g), full_matrices=False)
        return left[..., :rank] if axis == -2 else right[..., :rank, :]

    cut = partial(_cut, choose=choose, side=side)
    return Subspace(cut, stored=True, stagger=stagger)


def random_orthonormal(*, side: Side = shorter_side) -> Subspace:
    """Keep a random subspace, r = max(1, round(density min(M, N))) wide.

    The basis is the Q of a Gaussian matrix, made anew at every step from its seed.

    Args:
      side: which side is projected: `shorter_side` or `longer_side`.

    Returns:
      The subspace.
    """

    def choose(g: jax.Array, rank: int, axis: int, draw: Draw) -> jax.Array:
        dtype = jnp.promote_types(g.dtype, jnp.float32)
        size = (*g.shape[:-2], g.shape[axis], rank)
        normal = jax.random.normal(draw.key(), size, dtype)
        basis = shard_batch(jnp.linalg.qr(normal)[0], g)
        return basis if axis == -2 else _t(basis)

    return Subspace(partial(_cut, choose=choose, side=side))


def _cut(
    shape: tuple[int, ...],
    density: float,
    *,
    choose: Callable[[jax.Array, int, int, Draw], jax.Array],
    side: Side,
) -> Cut:
    axis = side(*shape[-2:])
    rank = count_kept(min(shape[-2:]), density)
    is_left, is_whole = axis == -2, rank == shape[axis]
    tolerance = 4 * shape[axis] ** 0.5

    def widen(g: jax.Array, basis: Basis) -> jax.Array:
        return unshard_axis(g, g.ndim + axis, parts=1).astype(basis.dtype)

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        g = widen(g, basis)
        return _dot(_t(basis), g) if is_left else _dot(g, _t(basis))

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        return _dot(basis, kept) if is_left else _dot(kept, basis)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        if is_whole:
            return jnp.zeros_like(g)
        wide = widen(g, basis)
        rest = wide - expand(kept, basis)
        noise = tolerance * float(np.finfo(wide.dtype).eps) * _norm(wide, axis)
        return jnp.where(jnp.abs(rest) <= noise, 0, rest).astype(g.dtype)

    def carry_squares(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        # Second moments of independent coordinates turn with the squared cosines.
        if is_left:
            return _dot(jnp.square(_dot(_t(new), old)), kept).astype(kept.dtype)
        return _dot(kept, jnp.square(_dot(old, _t(new)))).astype(kept.dtype)

    return Cut(
        lambda g, draw: choose(g, rank, axis, draw),
        restrict,
        expand,
        residual,
        carry_squares,
    )


def _t(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # A TPU's default precision would leave a residual of bfloat16's rounding.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _norm(x: jax.Array, axis: int) -> jax.Array:
    """Norm along an axis, also where squares would be zero or infinite."""
    peak = jnp.max(jnp.abs(x), axis, keepdims=True)
    scaled = x / jnp.where(peak > 0, peak, 1)
    norm: jax.Array = peak * jnp.linalg.norm(scaled, axis=axis, keepdims=True)
    return norm


def _unshard(x: jax.Array) -> jax.Array:
    """Gather both matrix axes: an SVD takes whole matrices."""
    for axis in (x.ndim - 2, x.ndim - 1):
        x = unshard_axis(x, axis, parts=1)
    return x
