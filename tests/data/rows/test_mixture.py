"""Mixtures by counting: shares hold within one row, and at any index at once."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data import DataError
from lostjax.data.rows.mixture import Interleave

WEIGHTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(WEIGHTS)
def test_every_count_is_within_one_row_of_its_share(weights):
    mixture = Interleave([Fraction(w) for w in weights])
    size = 2 * sum(weights) + 1
    source_B, before_B = mixture.locate(np.arange(size))
    seen = np.zeros(len(weights), int)
    shares = np.array(weights) / sum(weights)
    for i in range(size):
        np.testing.assert_array_equal(mixture.counts(i), seen)
        assert np.abs(seen - i * shares).max() < 1 + 1e-9
        assert before_B[i] == seen[source_B[i]]
        seen[source_B[i]] += 1


@given(WEIGHTS, st.integers(0, 10**15))
def test_far_away_rows_are_found_at_once(weights, index):
    mixture = Interleave(weights)
    counts = mixture.counts(index)
    assert counts.sum() == index
    source_B, before_B = mixture.locate(np.array([index]))
    assert before_B[0] == counts[source_B[0]]
    assert mixture.counts(index + 1)[source_B[0]] == counts[source_B[0]] + 1


def test_floats_are_read_as_decimals():
    mixture = Interleave([0.7, 0.3])
    assert mixture.period == 10 and mixture.counts(10).tolist() == [7, 3]
    assert Interleave([1 / 3, 2 / 3]).period == 3


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0, 2.0], [1e-9, 1.0]])
def test_bad_weights_are_named(weights):
    with pytest.raises(DataError, match="weights"):
        Interleave(weights)


def test_weights_without_a_period_are_named():
    with pytest.raises(DataError, match="round them"):
        Interleave([Fraction(1), Fraction(1, 1 << 21)])
