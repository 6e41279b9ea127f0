"""Gradient entries that are not finite: set to zero, and counted.

One NaN in an SVD or in a moment would stay for ever. The count makes visible what is
otherwise silent: behind `optax.clip_by_global_norm`, one NaN makes every entry NaN.
"""

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree

LARGEST = 2**31 - 1


def zero_nonfinite(tree: PyTree) -> PyTree:
    """Replace NaN and infinity by 0, entry by entry."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), tree)


def count_nonfinite(tree: PyTree, *, so_far: jax.Array) -> jax.Array:
    """Add the number of entries of a tree that are not finite to a count, int32."""
    counts = [_count(leaf) for leaf in jax.tree.leaves(tree)]
    new = jnp.minimum(optax.tree.sum(counts), 2.0**30).astype(jnp.int32)
    return jnp.where(so_far > LARGEST - new, LARGEST, so_far + new)


def _count(x: jax.Array) -> jax.Array:
    # float32: an int32 would overflow for an embedding of 2^31 entries.
    n = jnp.sum(~jnp.isfinite(x), dtype=jnp.float32)
    # Inside `jax.shard_map` every device counts its own shard.
    axes = tuple(getattr(jax.typeof(n), "vma", ()))
    return jax.lax.psum(n, axes) if axes else n
