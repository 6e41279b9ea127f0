"""Batches by counting: every row once an epoch, and any slice equals the whole's."""

from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data import Batch, BatchPlan, DataError, EvalPlan, Rows

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def make_rows(n_rows, *, seq_len=3, spare=0):
    """Rows whose tokens count up from 1, the last `spare` places padding."""
    size = n_rows * seq_len - spare
    return Rows(
        stream=np.arange(1, size + 2).astype(np.uint16),
        seq_len=seq_len,
        vocab_size=60000,
        eos_id=0,
        n_documents=1,
        n_bytes=size,
        content_hash="",
    )


def assert_same(one, two):
    for left, right in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def cut(batch, rows):
    return jax.tree.map(lambda leaf: leaf[rows], batch)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 2**40))
def test_every_row_comes_once_an_epoch(n_rows, batch_size, seed):
    plan = BatchPlan(make_rows(n_rows), batch_size=batch_size, seed=seed)
    steps = -(-3 * n_rows // batch_size)
    batches = [plan.batch_at(step) for step in range(steps)]
    order = np.concatenate([batch.example_B for batch in batches])
    epochs = np.concatenate([batch.epoch_B for batch in batches])
    np.testing.assert_array_equal(epochs, np.arange(order.size) // n_rows)
    for epoch in range(3):
        rows = order[epoch * n_rows : (epoch + 1) * n_rows]
        assert sorted(rows) == list(range(n_rows))


@given(SIZES, st.data())
def test_every_row_of_a_mixture_comes_once_an_epoch(sizes, data):
    weights = [data.draw(st.integers(1, 9)) for _ in sizes]
    plan = BatchPlan(
        [make_rows(size) for size in sizes], batch_size=7, seed=0, weights=weights
    )
    batches = [plan.batch_at(step) for step in range(30)]
    order = np.concatenate([batch.example_B for batch in batches])
    epochs = np.concatenate([batch.epoch_B for batch in batches])
    through = plan.count_epochs(30)
    first = 0
    for size, weight, passes in zip(sizes, weights, through, strict=True):
        is_mine = (order >= first) & (order < first + size)
        mine = order[is_mine]
        np.testing.assert_array_equal(epochs[is_mine], np.arange(len(mine)) // size)
        assert passes == len(mine) / size
        assert abs(len(mine) - len(order) * weight / sum(weights)) < 1
        for start in range(0, len(mine) - size + 1, size):
            epoch = mine[start : start + size]
            assert sorted(epoch) == list(range(first, first + size))
        first += size
    assert plan.n_rows == first


@given(SIZES, st.integers(1, 12), st.integers(0, 99), st.data())
def test_a_slice_equals_that_slice_of_the_whole(sizes, batch_size, step, data):
    rows = [make_rows(size) for size in sizes]
    plan = BatchPlan(rows, batch_size=batch_size, seed=3)
    start = data.draw(st.integers(0, batch_size))
    part = slice(start, data.draw(st.integers(start, batch_size)))
    whole = plan.batch_at(step)
    assert_same(
        plan.batch_at(step, rows=part), jax.tree.map(lambda leaf: leaf[part], whole)
    )
    held = EvalPlan(rows, batch_size=batch_size)
    index = step % held.n_batches
    whole = held.batch_at(index)
    assert_same(
        held.batch_at(index, rows=part), jax.tree.map(lambda leaf: leaf[part], whole)
    )


def test_a_batch_holds_the_rows_that_it_names():
    sizes = (4, 3)
    plan = BatchPlan([make_rows(size) for size in sizes], batch_size=8, seed=1)
    batch = plan.batch_at(2)
    for i, example in enumerate(batch.example_B):
        row = example if example < 4 else example - 4
        assert batch.tokens_BT[i].tolist() == [3 * row + 1 + t for t in range(3)]
        assert batch.targets_BT[i].tolist() == [3 * row + 2 + t for t in range(3)]


def test_shapes_and_types():
    batch = BatchPlan(make_rows(5), batch_size=4, seed=0).batch_at(0)
    assert isinstance(batch, Batch)
    fields = batch._asdict()
    assert fields.pop("factors_BT") is None
    kinds = {name: leaf.dtype for name, leaf in fields.items()}
    assert kinds.pop("weights_BT") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}
    assert batch.example_B.shape == batch.epoch_B.shape == (4,)
    assert all(leaf.shape == (4, 3) for leaf in list(fields.values())[:-2])


def test_batches_depend_on_the_step_and_the_seed_alone():
    rows = make_rows(50)
    plan = BatchPlan(rows, batch_size=8, seed=0)
    late = plan.batch_at(5)
    plan.batch_at(1)
    assert_same(BatchPlan(rows, batch_size=8, seed=0).batch_at(5), late)
    other = BatchPlan(rows, batch_size=8, seed=1).batch_at(5)
    assert (other.example_B != late.example_B).any()


def test_epochs_seeds_and_sources_have_orders_of_their_own():
    def order(seed, source, epoch):
        plan = BatchPlan([make_rows(64)] * 2, batch_size=128, seed=seed)
        examples = plan.batch_at(epoch).example_B
        return tuple(row % 64 for row in examples if row // 64 == source)

    names = [(s, p, e) for s in range(3) for p in range(2) for e in range(3)]
    orders = Counter(order(*name) for name in names)
    assert max(orders.values()) == 1


def test_the_order_of_a_seed_never_changes():
    """A run that is resumed by a later version must see the same rows."""
    plan = BatchPlan(
        [make_rows(600), make_rows(10)], batch_size=6, seed=7, weights=[0.7, 0.3]
    )
    assert plan.batch_at(1000).example_B.tolist() == GOLDEN


GOLDEN = [555, 525, 607, 220, 530, 608]


@given(SIZES, st.integers(1, 12), st.integers(0, 2))
def test_held_out_rows_come_once_and_in_order(sizes, batch_size, spare):
    rows = [make_rows(size, spare=spare) for size in sizes]
    plan = EvalPlan(rows, batch_size=batch_size)
    batches = [plan.batch_at(index) for index in range(plan.n_batches)]
    examples = np.concatenate([batch.example_B for batch in batches])
    assert all(batch.tokens_BT.shape == (batch_size, 3) for batch in batches)
    assert examples[: sum(sizes)].tolist() == list(range(sum(sizes)))
    assert set(examples[sum(sizes) :]) <= {-1}
    weights = np.concatenate([batch.weights_BT for batch in batches])
    assert weights[examples == -1].sum() == 0
    targets = np.concatenate([batch.targets_BT for batch in batches])
    assert targets[weights > 0].tolist() == [
        token for part in rows for token in np.asarray(part.stream[1:])
    ]
    assert weights.sum() == plan.n_predicted


def test_bad_arguments_are_named():
    rows = make_rows(4)
    with pytest.raises(DataError, match="batch_size: 0"):
        BatchPlan(rows, batch_size=0, seed=0)
    with pytest.raises(DataError, match="lengths differ"):
        EvalPlan([rows, make_rows(4, seq_len=5)], batch_size=1)
    with pytest.raises(DataError, match="no tokens"):
        EvalPlan([], batch_size=1)
    with pytest.raises(DataError, match="got 2 for 1"):
        BatchPlan(rows, batch_size=1, seed=0, weights=[1, 1])
    with pytest.raises(ValueError, match="step: -1"):
        BatchPlan(rows, batch_size=1, seed=0).batch_at(-1)
    with pytest.raises(ValueError, match=r"index: 4 must lie in \[0, 4\)"):
        EvalPlan(rows, batch_size=1).batch_at(4)
