"""Gradient entries that are not finite: set to zero, and counted.

One NaN in an SVD or in a moment would stay for ever. The count makes visible what is
otherwise silent: behind `optax.clip_by_global_norm`, one NaN makes every entry NaN.

A count of every entry at every update would take as long as the rest of the update. A
dot product of each gradient with itself is fast on all hardware, and finite only if all
entries are; the entries are counted if it is not.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lostjax.optim.splitting.placement import explicit_spec
from lostjax.typing import PyTree

LARGEST = 2**31 - 1


STACKED = 8
"""Number of equal arrays whose entries are counted together."""


def zero_nonfinite(x: jax.Array) -> jax.Array:
    """Replace NaN and infinity by 0, entry by entry."""
    # `jnp.where` would be twice as many operations, for every array of a tree.
    zeroed: jax.Array = jax.lax.select(jnp.isfinite(x), x, jax.lax.full_like(x, 0))
    return zeroed


def count_nonfinite(tree: PyTree, *, so_far: jax.Array) -> jax.Array:
    """Add the number of entries of a tree that are not finite to a count, int32."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return so_far
    squares = sum(_square(leaf) for leaf in leaves)
    # Large entries overflow too: then the count may be 0.
    total = jax.lax.cond(
        jnp.isfinite(squares),
        lambda: jnp.zeros_like(squares),
        lambda: sum(_count(leaf) for leaf in _stack_equal(leaves)),
    )
    # Inside `jax.shard_map` every device has counted its own shards.
    axes = tuple(jax.typeof(total).manual_axis_type.varying)
    total = jax.lax.psum(total, axes) if axes else total
    new = jnp.minimum(total, 2.0**30).astype(jnp.int32)
    return jnp.where(so_far > LARGEST - new, LARGEST, so_far + new)


def _stack_equal(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """Stack arrays of equal shapes and types, some at a time, for a smaller program."""
    equal: dict[Any, list[jax.Array]] = {}
    for number, leaf in enumerate(leaves):
        # Counts are per device: what varies over one mesh axis is not what varies over
        # another.
        kind = jax.typeof(leaf) if explicit_spec(leaf) is None else number
        equal.setdefault(kind, []).append(leaf)
    return [
        jnp.stack(same[start : start + STACKED])
        for same in equal.values()
        for start in range(0, len(same), STACKED)
    ]


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
