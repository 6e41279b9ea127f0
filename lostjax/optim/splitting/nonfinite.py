"""Gradient entries that are not finite: set to zero, and counted.

One NaN in an SVD or in a moment would stay for ever. The count makes visible what is
otherwise silent: behind `optax.clip_by_global_norm`, one NaN makes every entry NaN.

A count of every entry at every update would take as long as the rest of the update. A
dot product of each gradient with itself is fast on all hardware, and finite only if all
entries are; the entries are counted if it is not.
"""

import jax
import jax.numpy as jnp
import optax

from lostjax.optim.splitting.placement import explicit_spec
from lostjax.typing import PyTree

LARGEST = 2**31 - 1


def zero_nonfinite(tree: PyTree) -> PyTree:
    """Replace NaN and infinity by 0, entry by entry."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), tree)


def count_nonfinite(tree: PyTree, *, so_far: jax.Array) -> jax.Array:
    """Add the number of entries of a tree that are not finite to a count, int32."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return so_far
    squares = optax.tree.sum([_square(leaf) for leaf in leaves])
    # Large entries overflow too: then the count may be 0.
    total = jax.lax.cond(
        jnp.isfinite(squares),
        lambda: jnp.zeros_like(squares),
        lambda: optax.tree.sum([_count(leaf) for leaf in leaves]),
    )
    # Inside `jax.shard_map` every device has counted its own shards.
    axes = tuple(jax.typeof(total).manual_axis_type.varying)
    total = jax.lax.psum(total, axes) if axes else total
    new = jnp.minimum(total, 2.0**30).astype(jnp.int32)
    return jnp.where(so_far > LARGEST - new, LARGEST, so_far + new)


@jax.jit
def _square(x: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim))
    if explicit_spec(x) is not None:  # a product would need the whole array
        return jnp.sum(jnp.square(x.astype(jnp.float32)))
    return jax.lax.dot_general(
        x, x, ((axes, axes), ((), ())), preferred_element_type=jnp.float32
    )


def _count(x: jax.Array) -> jax.Array:
    bad = (~jnp.isfinite(x)).astype(jnp.uint32)  # up to 2^32 entries
    # XLA's CPU backend stores what it sums: let that be an eighth of the array.
    for _ in range(3):
        half, odd = divmod(bad.shape[-1] if x.ndim else 1, 2)
        if not odd and explicit_spec(x) is None:
            bad = bad[..., :half] + bad[..., half:]
    return jnp.sum(bad, dtype=jnp.uint32).astype(jnp.float32)
