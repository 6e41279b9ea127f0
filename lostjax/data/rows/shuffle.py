"""Elements of a random permutation, computed one at a time.

grain's index shuffle is a block cipher on at least 16 bits that is iterated until the
result lies in the range. It takes microseconds for large n but about 65,536 / n
iterations for small n. Up to 512 rows the whole permutation is computed instead, by
sorting n hashes. The cipher runs eight rounds: with grain's default of four, the
targets of rows 0 and 1 are clearly dependent (chi-square 343 at 99 degrees of freedom
for 100,000 rows; 97 with eight rounds).
"""

from functools import lru_cache

import numpy as np
import xxhash

from lostjax.typing import Int

_SMALL = 512
_ROUNDS = 8


def shuffle_index(index: int, *, size: int, seed: int) -> int:
    """Compute one element of the permutation of `size` elements that `seed` selects.

    Args:
      index: in [0, size).
      size: number of elements, in [1, 2^32].
      seed: in [0, 2^32).

    Returns:
      The image of `index`, in [0, size).
    """
    if size <= _SMALL:
        # Cached: all rows of an epoch read one permutation.
        return int(_small_permutation(size, seed)[index])
    # Import lazily: importing grain takes a second, and only training needs it.
    from grain.experimental import index_shuffle

    return int(index_shuffle(index, max_index=size - 1, seed=seed, rounds=_ROUNDS))


@lru_cache(maxsize=64)
def _small_permutation(size: int, seed: int) -> Int[np.ndarray, " N"]:
    hashes = [xxhash.xxh64_intdigest(b"%d" % i, seed=seed) for i in range(size)]
    # A stable sort, so that equal hashes have one order on every platform.
    return np.argsort(np.array(hashes, np.uint64), kind="stable")
