"""One element of a random permutation, without making the permutation.

grain's index shuffle is a block cipher on at least 16 bits, stepped until it falls
into the range: microseconds for many rows, but about 65,536 / n steps for n of them.
Up to 512 rows the whole permutation is made instead, as the order of n hashes. Eight
rounds: with grain's usual four, where rows 0 and 1 go is visibly not independent (a
chi-square of 343 at 99 degrees of freedom for 100,000 rows; 97 with eight).
"""

from functools import lru_cache

import numpy as np
import xxhash

from lostjax.typing import Int

_SMALL = 512
_ROUNDS = 8


def shuffle_index(index: int, *, size: int, seed: int) -> int:
    """Give an element of the permutation of `size` that `seed` stands for.

    Args:
      index: in [0, size).
      size: at least 1, at most 2^32.
      seed: in [0, 2^32).

    Returns:
      Where the index goes, in [0, size).
    """
    if size <= _SMALL:
        return int(_small_permutation(size, seed)[index])
    # Imported here: grain takes a second, and only training needs it.
    from grain.experimental import index_shuffle

    return int(index_shuffle(index, max_index=size - 1, seed=seed, rounds=_ROUNDS))


@lru_cache(maxsize=64)
def _small_permutation(size: int, seed: int) -> Int[np.ndarray, " N"]:
    hashes = [xxhash.xxh64_intdigest(b"%d" % i, seed=seed) for i in range(size)]
    return np.argsort(np.array(hashes, np.uint64), kind="stable")
