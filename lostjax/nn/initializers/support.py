"""Random supports of sparse matrices: uniform subsets of a given size.

Drawing n of N entries without replacement by a permutation sorts all N (11 million for
one 2048 x 5461 matrix). This module draws n entries with replacement and redraws
duplicates until there are none. The procedure treats all entries alike, so every subset
is equally likely. If n exceeds N / 2, it draws the complement instead. Cost: a few
sorts of min(n, N - n) integers.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Int, Key


def sample_support(key: Key, *, size: int, n_entries: int) -> Int[Array, "K"]:
    """Draw a uniformly random subset of the integers below `size`.

    Args:
        key: random key.
        size: number of entries N, below 2^31.
        n_entries: number of entries to draw, 0 to `size`.

    Returns:
        The subset (n_entries,), int32, sorted and unique.

    Raises:
        ValueError: if `size` does not fit int32, or `n_entries` is not in [0, size].
    """
    if size >= 2**31:
        raise ValueError(f"size={size} must be below {2**31}: entries are int32")
    if not 0 <= n_entries <= size:
        raise ValueError(f"n_entries={n_entries} is not within 0 to {size}")
    # Redrawing converges slowly if most entries are taken: draw the complement.
    if 2 * n_entries > size:
        left_out = _draw_distinct(key, size, size - n_entries)
        # A static size is needed under jit; the count is known exactly.
        is_in = jnp.ones(size, bool).at[left_out].set(False)
        return jnp.nonzero(is_in, size=n_entries)[0].astype(jnp.int32)
    return _draw_distinct(key, size, n_entries)


def _draw_distinct(key: Key, size: int, n_entries: int) -> Int[Array, "K"]:
    if n_entries == 0:
        return jnp.zeros(0, jnp.int32)

    def draw(key: Key) -> Int[Array, "K"]:
        return jax.random.randint(key, (n_entries,), 0, size, jnp.int32)

    def repeated(places: Int[Array, "K"]) -> jax.Array:
        # Sorted, so that duplicates are neighbours; the first of them is kept.
        return jnp.concatenate([jnp.zeros(1, bool), places[1:] == places[:-1]])

    def redraw(carry: tuple[Key, jax.Array]) -> tuple[Key, jax.Array]:
        key, places = carry
        key, key_draw = jax.random.split(key)
        return key, jnp.sort(jnp.where(repeated(places), draw(key_draw), places))

    key, key_first = jax.random.split(key)
    first = jnp.sort(draw(key_first))
    _, places = jax.lax.while_loop(
        lambda carry: jnp.any(repeated(carry[1])), redraw, (key, first)
    )
    return places
