"""The shuffle is a permutation for every size, and quick for all of them."""

import time

import numpy as np
import pytest
from grain.experimental import index_shuffle
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data.rows.shuffle import shuffle_index


@given(st.integers(1, 1500), st.integers(0, 2**32 - 1))
def test_every_size_gives_a_permutation(size, seed):
    order = [shuffle_index(index, size=size, seed=seed) for index in range(size)]
    assert sorted(order) == list(range(size))


def test_large_sizes_are_grains_shuffle():
    for index in (0, 1, 99_999):
        assert shuffle_index(index, size=100_000, seed=5) == index_shuffle(
            index, max_index=99_999, seed=5, rounds=8
        )


@pytest.mark.parametrize("size", [3, 400, 100_000])
def test_places_are_even_and_independent(size):
    """Where rows 0 and 1 go over 2,000 seeds: chi-square, 8 degrees of freedom."""
    at = np.array(
        [
            [shuffle_index(index, size=size, seed=seed) for index in (0, 1)]
            for seed in range(2000)
        ]
    )
    thirds = at * 3 // size
    counts = np.bincount(thirds[:, 0] * 3 + thirds[:, 1], minlength=9)
    if size == 3:  # two rows never go to the same place
        assert counts[[0, 4, 8]].sum() == 0
        counts = counts[[1, 2, 3, 5, 6, 7]]
    expected = 2000 / counts.size
    assert ((counts - expected) ** 2 / expected).sum() < 30


def test_small_sizes_take_no_long_walk():
    shuffle_index(0, size=3, seed=0)
    start = time.perf_counter()
    for seed in range(200):
        shuffle_index(0, size=3, seed=seed)
    assert time.perf_counter() - start < 1.0  # 3 seconds and more where it walks
