"""Subspaces of a stack of matrices: the part of a gradient that keeps a state.

A subspace cuts a gradient g of shape (*batch, M, N) in two. `restrict` gives the kept
part in its own, smaller shape; `expand` puts such a part back among zeros; and

    g = expand(restrict(g)) + residual(g)

exactly where entries are chosen by index, as by `blocks` here, which keeps whole layers
of a scanned stack, and by the strata of `optim.splitting.strata`; up to rounding, which
is taken out, for the orthonormal columns of `optim.splitting.orthonormal`.

A choice is a pure function of (seed, leaf, refresh): nothing of it is state, every host
makes the same, and a restored run goes on with it. FRUGAL's own code (Zmushko et al.,
2024, arXiv:2411.07837) draws permutations whose generator no checkpoint holds, keeps
index arrays (for coordinates twice the bytes of the moments they address), and counts
tensors where `blocks` counts layers.

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
"""Arrays that say which part is kept: masks, indices, or orthonormal columns."""

Order = Callable[..., jax.Array]
"""`order(key, *, refresh, n_layers, n_active) -> indices (n_active,)`, distinct."""


class Draw(NamedTuple):
    """What a random choice may depend on."""

    seed: Scalar
    leaf: int
    """A number made from the leaf's path."""
    refresh: jax.Array | int
    """How many refreshes there were before, from 0."""

    def key(self, *, per_leaf: bool = True) -> Key:
        """Make the key of this refresh: the leaf's own, or one for the whole tree."""
        # The generator is named: a process with another default draws the same.
        key = jax.random.fold_in(
            jax.random.key(self.seed, impl="threefry2x32"), self.refresh
        )
        return jax.random.fold_in(key, self.leaf) if per_leaf else key


class Cut(NamedTuple):
    """A subspace of matrices of one shape; all of it is linear in the gradient."""

    choose: Callable[[jax.Array, Draw], Basis]
    """(gradient (*batch, M, N), draw) -> basis."""
    restrict: Callable[[jax.Array, Basis], jax.Array]
    """(*batch, M, N) -> the kept part (*batch, m, n)."""
    expand: Callable[[jax.Array, Basis], jax.Array]
    """The kept part -> (*batch, M, N), zero elsewhere."""
    residual: Callable[[jax.Array, jax.Array, Basis], jax.Array]
    """(gradient, its kept part, basis) -> what is not kept."""
    carry_squares: Callable[[jax.Array, Basis, Basis], jax.Array]
    """(second moments in an old basis, old, new) -> second moments in the new."""


class Subspace(NamedTuple):
    """A rule that cuts matrices of any shape."""

    cut: Callable[[tuple[int, ...], float], Cut]
    """(shape (*batch, M, N), density in (0, 1)) -> cut. Raises ValueError where the
    shape does not fit."""
    stored: bool = False
    """Whether the basis depends on the gradient and so is kept as state: one array of
    the stack's rank."""
    stagger: int = 1
    """Groups of tensors that refresh at different steps, evenly over the gap."""


def blocks(order: Order | None = None) -> Subspace:
    """Keep whole layers of stacks (L, M, N), moments (k, M, N).

    The layer axis is the first batch axis. All arrays of one depth L keep the same
    layers, so whole decoder blocks have state together.

    Args:
      order: which layers at each refresh: `random_order` (the default),
        `ascending_order`, `descending_order`, `mirror_order`.

    Returns:
      The subspace, with k = max(1, round(density L)).
    """
    return Subspace(partial(_cut_layers, order=order or random_order))


def random_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Draw distinct layers afresh at every refresh."""
    del refresh  # is in the key
    return jax.random.permutation(key, n_layers)[:n_active]


def ascending_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Go from the first layer to the last, round and round."""
    del key
    return (refresh * n_active + jnp.arange(n_active)) % n_layers


def descending_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Go from the last layer to the first, round and round: FRUGAL's pre-training."""
    del key
    return (-1 - refresh * n_active - jnp.arange(n_active)) % n_layers


def mirror_order(
    key: Key, *, refresh: Int[Array, ""] | int, n_layers: int, n_active: int
) -> Int[Array, " K"]:
    """Go from both ends to the middle, in pairs: first, last, second, last but one."""
    del key
    place = (refresh * n_active + jnp.arange(n_active)) % n_layers
    half = place // 2
    return jnp.where(place % 2 == 0, half, n_layers - 1 - half)


def count_kept(size: int, density: float) -> int:
    """Count what is kept of an axis: round(density x size), at least 1."""
    return min(size, max(1, round(density * size)))


def _cut_layers(shape: tuple[int, ...], density: float, *, order: Order) -> Cut:
    if len(shape) < 3:
        raise ValueError(
            f"blocks keep layers of a stack (L, M, N), and shape {shape} has no layer "
            "axis; take columns(), rows() or coordinates(), or stack_layers around the "
            "transformation"
        )
    n_layers = shape[0]
    n_active = count_kept(n_layers, density)
    flat = (n_layers,) + (1,) * (len(shape) - 1)

    def choose(g: jax.Array, draw: Draw) -> tuple[jax.Array, jax.Array, jax.Array]:
        del g
        key = draw.key(per_leaf=False)
        chosen = order(key, refresh=draw.refresh, n_layers=n_layers, n_active=n_active)
        active = jnp.zeros(n_layers, bool).at[chosen].set(True)
        # Kept layers lie in rising order; layer l has the slot rank(l).
        return jnp.sort(chosen), jnp.cumsum(active) - 1, active

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        layers, _, _ = basis
        g = unshard_axis(g, 0, parts=1)
        return jnp.take(g, layers, axis=0, mode="clip")

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        _, slots, active = basis
        spread = jnp.take(kept, slots, axis=0, mode="clip")
        return jnp.where(active.reshape(flat), spread, 0)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        del kept
        return jnp.where(basis[2].reshape(flat), 0, g)

    def carry(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        return restrict(expand(kept, old), new)

    return Cut(choose, restrict, expand, residual, carry)


def unshard_axis(x: jax.Array, axis: int, *, parts: int) -> jax.Array:
    """Gather an axis whose explicit sharding does not divide its parts evenly.

    Only meshes with explicit axes say how a traced array lies; elsewhere the compiler
    places what is needed, and this does nothing.
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
    """Lay the batch axes as another array's lie, on meshes with explicit axes."""
    spec = jax.typeof(like).sharding.spec
    if all(names is None for names in spec[:-2]):
        return x
    moved: jax.Array = jax.sharding.reshard(x, jax.P(*spec[:-2], None, None))
    return moved
