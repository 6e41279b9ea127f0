"""Subspaces spanned by orthonormal vectors: from the gradient's SVD, or random.

For P with r orthonormal columns or rows, on one side of a matrix (M, N),

                    P (M, r), P'P = 1      P (r, N), PP' = 1
    restrict(g)     P'g  (r, N)            g P' (M, r)
    expand(u)       P u                    u P
    residual(g)     g - expand(restrict(g))

The axes of P have the matrix's order, so the sharding of the matrix also applies to P.
GaLore (Zhao et al., 2024, arXiv:2403.03507) and FRUGAL (Zmushko et al., 2024,
arXiv:2411.07837) project the shorter side, which keeps r max(M, N) entries: the
density's share of the matrix. `optax.contrib.galore` projects the longer side, which
keeps r min(M, N) entries, fewer for a matrix that is not square, but has the larger P.
Both are implemented here.

The residual of a gradient that lies in the subspace consists of rounding errors, and
FRUGAL's sign turns them into full steps (as its own code does: at density 1, for 97 %
of all entries). Here, entries of the residual within the rounding error of the product,

    4 sqrt(D) eps |g_j|    (D the projected side, |g_j| the norm along it),

are set to zero. A typical entry is larger by 1 / (4 D eps), a factor of 500 at D =
4096.

As in the paper, the sign of a residual is no longer orthogonal to P: a part of each
state-free step lies in the subspace.

Cost: 4 M N r FLOPs per step, and an SVD at each refresh (for a stack, of one layer
after the other). `random_orthonormal` computes a QR decomposition, 2 D r^2 FLOPs, at
every step instead of storing P.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.optim.splitting.placement import explicit_spec, free_axis, place
from lostjax.optim.splitting.subspace import Basis, Cut, Draw, Subspace, count_kept

Side = Callable[[int, int], int]
"""`side(M, N) -> axis`, -2 or -1: the side of a matrix to project."""


def shorter_side(m: int, n: int) -> int:
    """Select the shorter side, or inputs if both are equal: GaLore's rule."""
    return -2 if m <= n else -1


def longer_side(m: int, n: int) -> int:
    """Select the longer side, or inputs if both are equal: optax's rule.

    FRUGAL's own `reverse_std` projects this side too, but onto round(density max(M, N))
    directions, which keep the density's share of the entries. Here the rank is
    round(density min(M, N)) for both sides, so this side keeps fewer entries.
    """
    return -2 if m >= n else -1


def gradient_svd(*, side: Side = shorter_side, stagger: int = 1) -> Subspace:
    """Build the subspace of the gradient's leading singular vectors: GaLore.

    The SVD is computed at each refresh. The basis P is state with D r entries, where D
    is the projected side and r = max(1, round(density min(M, N))). The basis and the
    moments are float32, whatever the type of the gradient.

    Args:
      side: side to project: `shorter_side` or `longer_side`.
      stagger: number of groups of tensors that refresh at different steps, at least 1.
        More groups spread the cost of the SVDs over the gap.

    Returns:
      The subspace.

    Raises:
      ValueError: if stagger is below 1.
    """
    if stagger < 1:
        raise ValueError(f"stagger={stagger}: must be at least 1")

    def choose(g: jax.Array, rank: int, axis: int, draw: Draw) -> jax.Array:
        del draw
        # LAPACK and cuSOLVER have no SVD for bfloat16 or float16.
        g = _gather(g.astype(jnp.promote_types(g.dtype, jnp.float32)))
        left, _, right = jnp.linalg.svd(g * _headroom(g), full_matrices=False)
        return left[..., :rank] if axis == -2 else right[..., :rank, :]

    cut = partial(_cut, choose=choose, side=side)
    return Subspace(cut, stored=True, stagger=stagger)


def random_orthonormal(*, side: Side = shorter_side) -> Subspace:
    """Build a random subspace of dimension r = max(1, round(density min(M, N))).

    The basis is the factor Q of a Gaussian matrix. It is recomputed from its seed at
    every step.

    Args:
      side: side to project: `shorter_side` or `longer_side`.

    Returns:
      The subspace.
    """

    def choose(g: jax.Array, rank: int, axis: int, draw: Draw) -> jax.Array:
        dtype = jnp.promote_types(g.dtype, jnp.float32)
        size = (*g.shape[:-2], g.shape[axis], rank)
        normal = jax.random.normal(draw.leaf_key(), size, dtype)
        # QR of a Gaussian matrix: the spanned subspace is uniformly distributed.
        basis = _follow_batch(jnp.linalg.qr(normal)[0], g)
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
    # Rounding errors of a sum of D products grow like sqrt(D).
    tolerance = 4 * shape[axis] ** 0.5

    def whole(x: jax.Array) -> jax.Array:
        # The product needs the projected side whole: shard the other side instead.
        sides = (x.ndim - 2, x.ndim - 1) if is_left else (x.ndim - 1, x.ndim - 2)
        return free_axis(x, sides[0], parts=1, onto=sides[1:])

    def project(g: jax.Array, basis: Basis) -> jax.Array:
        return _dot(_t(basis), g) if is_left else _dot(g, _t(basis))

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        kept = whole(kept)
        return _dot(basis, kept) if is_left else _dot(kept, basis)

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        g = whole(g).astype(basis.dtype)
        scale = _headroom(g)
        return _saturate(project(g * scale, basis) / scale)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        # A square basis spans everything: the residual is rounding alone.
        if is_whole:
            return jnp.zeros_like(g)
        # Subtract in the type of the basis: bfloat16 would round the residual away.
        wide = whole(g).astype(basis.dtype)
        scale = _headroom(wide)
        wide = wide * scale
        rest = wide - expand(kept * scale, basis)
        noise = tolerance * float(np.finfo(wide.dtype).eps) * _norm(wide, axis)
        # Zero rounding errors: the sign of an error would be a full step.
        rest = jnp.where(jnp.abs(rest) <= noise, 0, rest)
        return _saturate(rest / scale).astype(g.dtype)

    def carry_squares(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        # The variance of a sum of independent coordinates has squared coefficients:
        # second moments transform with the squares of the cosines between the bases.
        kept = whole(kept)
        if is_left:
            return _dot(jnp.square(_dot(_t(new), old)), kept).astype(kept.dtype)
        return _dot(kept, jnp.square(_dot(old, _t(new)))).astype(kept.dtype)

    def align(new: Basis, old: Basis) -> Basis:
        # The sign of a singular vector is arbitrary: with KEEP, a flip would turn the
        # momentum around. The first basis meets zeros.
        cosine = jnp.sum(new * old, axis, keepdims=True)
        return jnp.where(cosine < 0, -new, new)

    return Cut(
        lambda g, draw: choose(g, rank, axis, draw),
        restrict,
        expand,
        residual,
        carry_squares,
        align=align,
    )


def _t(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # The default precision of a TPU is bfloat16: its rounding would dominate residuals.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _norm(x: jax.Array, axis: int) -> jax.Array:
    """Compute the norm along an axis without underflow or overflow of squares."""
    peak = jnp.max(jnp.abs(x), axis, keepdims=True)
    # Divide by the largest entry first: in float32 the square of 1e-30 is 0, that of
    # 1e20 infinite.
    scaled = x / jnp.where(peak > 0, peak, 1)
    norm: jax.Array = peak * jnp.linalg.norm(scaled, axis=axis, keepdims=True)
    return norm


def _headroom(g: jax.Array) -> jax.Array:
    """Return a power of two by which each matrix is multiplied before a sum of squares.

    It is 1 unless entries are so large that such a sum would overflow.
    """
    peak = jnp.max(jnp.abs(g), (-2, -1), keepdims=True)
    # From float32's 1e38 to 1e18. A power of two rounds nothing.
    limit = float(np.finfo(g.dtype).max) ** 0.5 / 2**20
    return jnp.where(peak > limit, 2.0**-84, 1.0).astype(g.dtype)


def _saturate(x: jax.Array) -> jax.Array:
    """Replace what overflowed by the largest number: Adam would make NaN of inf."""
    largest = float(np.finfo(x.dtype).max)
    return jnp.clip(x, -largest, largest)


def _gather(x: jax.Array) -> jax.Array:
    """Gather both matrix axes, because an SVD needs whole matrices."""
    for axis in (x.ndim - 2, x.ndim - 1):
        x = free_axis(x, axis, parts=1)
    return x


def _follow_batch(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shard the batch axes like another array's, on meshes with explicit axes."""
    spec = explicit_spec(like)
    if spec is None or all(names is None for names in spec[:-2]):
        return x
    return place(x, jax.P(*spec[:-2], None, None))
