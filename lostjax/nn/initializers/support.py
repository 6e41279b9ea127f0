"""Random supports of sparse matrices: uniform subsets of a known size.

Drawing n of N places without replacement by a permutation costs a sort of all N (11
million for one 2048 x 5461 matrix). Here n places are drawn with replacement, and those
that were hit before are drawn again until there are none. Relabelling the places
relabels the answer, so every subset is equally likely. More than half of the places are
drawn as the complement of the rest. Cost: a few sorts of min(n, N - n) numbers.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Int, Key


def sample_support(key: Key, *, size: int, n_entries: int) -> Int[Array, "K"]:
    """Draw a subset of the integers below `size`, every one equally likely.

    Args:
        key: the randomness.
        size: number of places, below 2^31.
        n_entries: how many to draw, 0 to `size`.

    Returns:
        The places (n_entries,) int32, sorted and unique.

    Raises:
        ValueError: if there are too many places for int32, or too few for the draw.
    """
    if size >= 2**31:
        raise ValueError(f"size={size} must be below {2**31}: places are int32")
    if not 0 <= n_entries <= size:
        raise ValueError(f"n_entries={n_entries} is not within 0 to {size}")
    if 2 * n_entries > size:
        left_out = _draw_distinct(key, size, size - n_entries)
        is_in = jnp.ones(size, bool).at[left_out].set(False)
        return jnp.nonzero(is_in, size=n_entries)[0].astype(jnp.int32)
    return _draw_distinct(key, size, n_entries)


def _draw_distinct(key: Key, size: int, n_entries: int) -> Int[Array, "K"]:
    if n_entries == 0:
        return jnp.zeros(0, jnp.int32)

    def draw(key: Key) -> Int[Array, "K"]:
        return jax.random.randint(key, (n_entries,), 0, size, jnp.int32)

    def repeated(places: Int[Array, "K"]) -> jax.Array:
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
