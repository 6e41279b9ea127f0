"""Subspaces of a stack of matrices: the part of a gradient that has optimiser state.

A subspace cuts a gradient g of shape (*batch, M, N) in two. `restrict` computes the
kept part in its own, smaller shape; `expand` restores such a part to the full shape
with zeros elsewhere; and

    g = expand(restrict(g)) + residual(g)

The equation is exact for subspaces that select entries by index: `blocks` in this
module, which keeps whole layers of a scanned stack, and the strata of
`optim.splitting.strata`. For the orthonormal bases of `optim.splitting.orthonormal` it
holds up to rounding, which is removed from the residual.

A choice is a pure function of (seed, leaf, refresh). It needs no state, is equal on
every host, and continues after a restore. FRUGAL's own code (Zmushko et al., 2024,
arXiv:2411.07837) differs: it draws permutations whose generator is not saved in
checkpoints, stores index arrays (for coordinates twice the bytes of the moments that
they address), and counts tensors where `blocks` counts layers.

Kernels are (inputs, outputs): what papers that write W as (out, in) call columns are
rows here.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Int, Key, Scalar

Basis = Any
"""Arrays that define the kept part: masks, indices, or an orthonormal basis."""

Order = Callable[..., jax.Array]
"""`order(key, *, refresh, n_layers, n_active) -> indices (n_active,)`, distinct."""


class Draw(NamedTuple):
    """The inputs of a random choice."""

    seed: Scalar
    leaf: int
    """A hash of the leaf's path."""
    refresh: jax.Array | int
    """Number of earlier refreshes."""

    def key(self, *, per_leaf: bool = True) -> Key:
        """Build the key of this refresh: one per leaf, or one for the whole tree."""
        # Name the generator: the choice must not depend on the process's default one.
        key = jax.random.fold_in(
            jax.random.key(self.seed, impl="threefry2x32"), self.refresh
        )
        return jax.random.fold_in(key, self.leaf) if per_leaf else key


class Cut(NamedTuple):
    """A subspace of matrices of one shape; all functions are linear in the gradient."""

    choose: Callable[[jax.Array, Draw], Basis]
    """(gradient (*batch, M, N), draw) -> basis."""
    restrict: Callable[[jax.Array, Basis], jax.Array]
    """(*batch, M, N) -> the kept part (*batch, m, n)."""
    expand: Callable[[jax.Array, Basis], jax.Array]
    """Kept part -> (*batch, M, N), zero elsewhere."""
    residual: Callable[[jax.Array, jax.Array, Basis], jax.Array]
    """(gradient, its kept part, basis) -> the part that is not kept."""
    carry_squares: Callable[[jax.Array, Basis, Basis], jax.Array]
    """(second moments in the old basis, old, new) -> second moments in the new basis.
    """


class Subspace(NamedTuple):
    """A rule that cuts matrices of any shape."""

    cut: Callable[[tuple[int, ...], float], Cut]
    """(shape (*batch, M, N), density in (0, 1)) -> cut. Raises ValueError if the shape
    does not fit."""
    stored: bool = False
    """Whether the basis depends on the gradient and is therefore stored as state: one
    array with the rank of the stack."""
    stagger: int = 1
    """Number of groups of tensors that refresh at different steps, spread over the gap.
    """


def blocks(order: Order | None = None) -> Subspace:
    """Build a subspace of whole layers of stacks (L, M, N).

    The moments have shape (k, M, N). The layer axis is the first batch axis. All arrays
    of equal depth L keep the same layers, so the arrays of a decoder block have state
    together.

    Args:
      order: selects the layers at each refresh: `random_order` (the default),
        `ascending_order`, `descending_order`, `mirror_order`.

    Returns:
      The subspace, with k = max(1, round(density L)).
    """
    return Subspace(partial(_cut_layers, order=order or random_order))


def random_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Draw distinct layers independently at every refresh."""
    del refresh  # already part of the key
    return jax.random.permutation(key, n_layers)[:n_active]


def ascending_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Cycle through the layers from the first to the last."""
    del key
    return (refresh * n_active + jnp.arange(n_active)) % n_layers


def descending_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Cycle through the layers from the last to the first: FRUGAL's pre-training."""
    del key
    return (-1 - refresh * n_active - jnp.arange(n_active)) % n_layers


def mirror_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Cycle from both ends to the middle, in pairs: first, last, second, ...."""
    del key
    place = (refresh * n_active + jnp.arange(n_active)) % n_layers
    half = place // 2
    return jnp.where(place % 2 == 0, half, n_layers - 1 - half)


def count_kept(size: int, density: float) -> int:
    """Count the entries kept of an axis: round(density x size), at least 1."""
    return min(size, max(1, round(density * size)))


def _cut_layers(shape: tuple[int, ...], density: float, *, order: Order) -> Cut:
    if len(shape) < 3:
        raise ValueError(
            f"blocks keep layers of a stack (L, M, N), but shape {shape} has no layer "
            "axis; use columns(), rows() or coordinates(), or wrap the transformation "
            "in stack_layers"
        )
    n_layers = shape[0]
    n_active = count_kept(n_layers, density)
    flat = (n_layers,) + (1,) * (len(shape) - 1)

    def choose(g: jax.Array, draw: Draw) -> tuple[jax.Array, jax.Array, jax.Array]:
        del g
        key = draw.key(per_leaf=False)
        chosen = order(key, refresh=draw.refresh, n_layers=n_layers, n_active=n_active)
        # A mask of L booleans: small enough to scatter.
        active = jnp.zeros(n_layers, bool).at[chosen].set(True)
        # Kept layers are stored in ascending order: layer l has slot rank(l).
        return jnp.sort(chosen), jnp.cumsum(active) - 1, active

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        layers, _, _ = basis
        # The chosen layers may be on other shards: gather the layer axis first.
        g = unshard_axis(g, 0, parts=1)
        return jnp.take(g, layers, axis=0, mode="clip")

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        _, slots, active = basis
        # A gather and a mask instead of a scatter: they fuse with what follows.
        spread = jnp.take(kept, slots, axis=0, mode="clip")
        return jnp.where(active.reshape(flat), spread, 0)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        del kept
        # Exact: kept layers become 0 without a subtraction.
        return jnp.where(basis[2].reshape(flat), 0, g)

    def carry(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        return restrict(expand(kept, old), new)

    return Cut(choose, restrict, expand, residual, carry)


def unshard_axis(x: jax.Array, axis: int, *, parts: int) -> jax.Array:
    """Gather an axis whose explicit sharding does not divide its parts evenly.

    Only meshes with explicit axes expose the sharding of a traced array. On other
    meshes the compiler places the data, and this function returns its input.
    """
    sharding = jax.typeof(x).sharding
    spec = sharding.spec
    names = spec[axis] if axis < len(spec) else None
    if names is None:
        return x
    sizes = sharding.mesh.shape
    n_shards = math.prod(
        sizes[n] for n in ((names,) if isinstance(names, str) else names)
    )
    if parts % n_shards == 0:
        return x
    whole = jax.P(*spec[:axis], None, *spec[axis + 1 :])
    moved: jax.Array = jax.sharding.reshard(x, whole)
    return moved


def shard_batch(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shard the batch axes like another array's, on meshes with explicit axes."""
    spec = jax.typeof(like).sharding.spec
    if all(names is None for names in spec[:-2]):
        return x
    moved: jax.Array = jax.sharding.reshard(x, jax.P(*spec[:-2], None, None))
    return moved
