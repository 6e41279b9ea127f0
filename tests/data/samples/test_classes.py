"""Splits of examples with classes."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data import Samples, load_digits, split_samples


def make_samples(counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    inputs = np.arange(len(labels), dtype=np.float32)[:, None]
    return Samples(inputs, labels, tuple(map(str, range(len(counts)))), "-", "-")


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_a_split_has_every_row_once_and_every_class_in_proportion(counts, share, seed):
    samples = make_samples(counts)
    n_rows = sum(counts)
    train_rows = min(max(round(share * n_rows), 1), n_rows - 1)
    train, heldout = split_samples(samples, train_rows=train_rows, seed=seed)
    assert len(train.labels) == train_rows
    both = np.concatenate([train.inputs, heldout.inputs])[:, 0]
    np.testing.assert_array_equal(np.sort(both), np.arange(n_rows))
    for part in (train, heldout):
        rows = part.inputs[:, 0].astype(int)
        np.testing.assert_array_equal(part.labels, samples.labels[rows])
        assert part.names == samples.names
    drawn = np.bincount(train.labels, minlength=len(counts))
    exact = np.array(counts) * train_rows / n_rows
    assert (np.abs(drawn - exact) < 1).all()


def test_rows_that_are_left_go_to_the_largest_remainders():
    """4 of 10 rows: 2, 1.2 and .8 of the classes."""
    train, _ = split_samples(make_samples([5, 3, 2]), train_rows=4, seed=0)
    assert np.bincount(train.labels).tolist() == [2, 1, 1]


def test_the_seed_decides_the_rows_and_their_order_and_nothing_else():
    digits = load_digits()
    first, again, other = (
        split_samples(digits, train_rows=512, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    assert not np.array_equal(first.train.labels, other.train.labels)
    for a, b in zip(first, other, strict=True):
        np.testing.assert_array_equal(np.bincount(a.labels), np.bincount(b.labels))
        assert (np.diff(a.labels) < 0).any()  # not sorted by class


def test_splits_of_many_seeds_stack():
    digits = load_digits()
    splits = [split_samples(digits, train_rows=100, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *splits)
    assert stacked.train.inputs.shape == (3, 100, 8, 8)
    assert stacked.heldout.labels.shape == (3, 1697)
    assert stacked.train.licence == digits.licence
    mean = jax.jit(jax.vmap(lambda split: split.train.inputs.mean()))(stacked)
    expected = [split.train.inputs.mean() for split in splits]
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_a_split_needs_rows_on_both_sides():
    samples = make_samples([3, 3])
    for bad in (0, 6, -1):
        with pytest.raises(ValueError, match=rf"train_rows={bad}: must lie in \[1, 5"):
            split_samples(samples, train_rows=bad, seed=0)
    with pytest.raises(ValueError, match="seed=-1: must be 0 or positive"):
        split_samples(samples, train_rows=3, seed=-1)
