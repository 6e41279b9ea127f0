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

Temporary memory of one compiled update of a stack of 32 MiB on a CPU: 32 MiB for
`blocks`, `rows`, `columns` and `coordinates`, 112 for `random_orthonormal`, 160 for
`gradient_svd`, and 64 for `optax.adamw`.

Kernels are (inputs, outputs): what papers that write W as (out, in) call columns are
rows here.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.optim.splitting.placement import free_axis
from lostjax.typing import Array, Int, Key, Scalar

Basis = Any
"""Arrays that define the kept part: masks, indices, or an orthonormal basis."""

Order = Callable[..., jax.Array]
"""`order(key, *, refresh, n_layers, n_active) -> indices (n_active,)`, distinct."""


class Draw(NamedTuple):
    """The inputs of a random choice."""

    key: Key
    """Key of the seed and the refresh, the same for all leaves."""
    words: jax.Array
    """Two random words of that key, uint32 (2,)."""
    refresh: jax.Array | int
    """Number of earlier refreshes."""
    leaf: jax.Array
    """A hash of the leaf's path, and its complement; uint32 (2,)."""
    odd: jax.Array
    """Both with the random words, as odd numbers; uint32 (2,)."""
    table: jax.Array | None = None
    """Random words that all leaves of a shape share, see `make_table`."""

    def at_leaf(
        self, number: jax.Array | int, *, table: jax.Array | None = None
    ) -> "Draw":
        """Return the inputs of the choice of one leaf, by a hash of its path."""
        # A pair of two numbers: the compiler writes a scalar constant into the code,
        # and would compile the same code again for every leaf.
        pair: Any
        if isinstance(number, int):
            pair = np.array([number, ~number & 0xFFFFFFFF], np.uint32)
        else:
            word = number.astype(jnp.uint32)
            pair = jnp.stack([word, ~word])
        even = jnp.asarray(pair & np.uint32(0xFFFFFFFE))
        return self._replace(leaf=jnp.asarray(pair), odd=self.odd ^ even, table=table)

    def leaf_key(self) -> Key:
        """Return a key that differs between leaves."""
        return jax.random.fold_in(self.key, self.leaf[0])

    def make_table(self, shape: tuple[int, ...]) -> jax.Array:
        """Hash the index of each entry and the key to random words, uint32."""
        start = _hash(self.words).reshape(2, *(1,) * len(shape))
        index = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
        # A reduction is computed once; the compiler would repeat a hash in each reader.
        return jnp.sum(_hash(index ^ start), 0, dtype=jnp.uint32)

    def bits(self, shape: tuple[int, ...]) -> jax.Array:
        """Draw random words whose upper 16 bits differ between leaves, uint32.

        Each is an odd multiple, by leaf, of a word of the table: multiply-shift hashing
        (Dietzfelbinger et al., 1997). `jax.random.bits` would be a program of 300
        operations for each leaf of a tree; this is one of 6.
        """
        table = self.make_table(shape) if self.table is None else self.table
        return table * self.odd[0]


def start_draw(seed: Scalar, refresh: jax.Array | int) -> Draw:
    """Build the inputs of all choices of a refresh; choose a leaf with `at_leaf`."""
    # Name the generator: the choice must not depend on the process's default one.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), refresh)
    words = jax.random.key_data(key)
    return Draw(key, words, refresh, jnp.zeros_like(words), words | np.uint32(1))


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
    combine: Callable[[jax.Array, jax.Array, Basis], jax.Array] | None = None
    """(kept part, (*batch, M, N), basis) -> the array with the kept part in its place,
    for subspaces that select entries; None for `expand` and a sum."""
    table: tuple[int, ...] | None = None
    """Shape of the random words that a choice reads; None for none."""
    align: Callable[[Basis, Basis], Basis] = lambda new, old: new
    """(new stored basis, old one) -> the new one with the signs of the old one."""


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
    """Cycle from both ends to the middle, in pairs: first, last, second, ....

    At an odd depth the middle layer has one turn in a cycle, like any other. FRUGAL's
    own code cycles through the pairs alone, so the middle layer never has state.
    """
    del key
    place = (refresh * n_active + jnp.arange(n_active)) % n_layers
    half = place // 2
    return jnp.where(place % 2 == 0, half, n_layers - 1 - half)


def count_kept(size: int, density: float) -> int:
    """Count the entries kept of an axis: round(density x size), at least 1.

    So an axis of few entries saves little: of two, one is kept at every density below
    0.75. FRUGAL's own code rounds columns down, to none for a short axis.
    """
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
        chosen = order(
            draw.key, refresh=draw.refresh, n_layers=n_layers, n_active=n_active
        )
        # A mask of L booleans: small enough to scatter.
        active = jnp.zeros(n_layers, bool).at[chosen].set(True)
        # Kept layers are stored in ascending order: layer l has slot rank(l).
        return jnp.sort(chosen), jnp.cumsum(active) - 1, active

    def whole_layers(x: jax.Array) -> jax.Array:
        # The chosen layers may be on other shards: shard the matrices instead.
        return free_axis(x, 0, parts=1, onto=range(x.ndim - 1, 0, -1))

    def restrict(g: jax.Array, basis: Basis) -> jax.Array:
        layers, _, _ = basis
        return jnp.take(whole_layers(g), layers, axis=0, mode="clip")

    def spread(kept: jax.Array, basis: Basis) -> jax.Array:
        # A gather and a mask instead of a scatter: they fuse with what follows.
        return jnp.take(whole_layers(kept), basis[1], axis=0, mode="clip")

    def expand(kept: jax.Array, basis: Basis) -> jax.Array:
        return jnp.where(basis[2].reshape(flat), spread(kept, basis), 0)

    def residual(g: jax.Array, kept: jax.Array, basis: Basis) -> jax.Array:
        del kept
        # Exact: kept layers become 0 without a subtraction.
        return jnp.where(basis[2].reshape(flat), 0, g)

    def combine(kept: jax.Array, free: jax.Array, basis: Basis) -> jax.Array:
        return jnp.where(basis[2].reshape(flat), spread(kept, basis), free)

    def carry(kept: jax.Array, old: Basis, new: Basis) -> jax.Array:
        return restrict(expand(kept, old), new)

    return Cut(choose, restrict, expand, residual, carry, combine)


def _hash(x: jax.Array) -> jax.Array:
    """Mix 32 bits: Chris Wellons's `lowbias32`, a bijection with little bias."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
