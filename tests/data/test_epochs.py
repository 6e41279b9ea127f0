"""The rows of every step."""

import jax
import numpy as np
import pytest

from lostjax.data import epoch_rows

KEY = jax.random.key(0)


@pytest.mark.parametrize(("n_rows", "batch_size"), [(12, 4), (14, 4), (5, 5), (3, 1)])
def test_every_epoch_has_every_row_at_most_once_in_an_order_of_its_own(
    n_rows, batch_size
):
    rows_SB = epoch_rows(KEY, n_rows=n_rows, batch_size=batch_size, n_epochs=3)
    n_steps = n_rows // batch_size
    assert rows_SB.shape == (3 * n_steps, batch_size) and rows_SB.dtype == np.int32
    by_epoch = np.asarray(rows_SB).reshape(3, -1)
    for rows in by_epoch:
        assert len(set(rows.tolist())) == n_steps * batch_size
        assert rows.min() >= 0 and rows.max() < n_rows
    assert (by_epoch[0] != by_epoch[1]).any()


def test_what_is_left_over_changes_from_epoch_to_epoch():
    rows_SB = epoch_rows(KEY, n_rows=14, batch_size=4, n_epochs=20)
    assert len(np.unique(rows_SB)) == 14


def test_a_longer_run_begins_as_a_shorter_one():
    short, long = (epoch_rows(KEY, n_rows=10, batch_size=3, n_epochs=n) for n in (2, 5))
    np.testing.assert_array_equal(long[: len(short)], short)


def test_keys_may_be_mapped():
    keys = jax.random.split(KEY, 3)

    def draw(key):
        return epoch_rows(key, n_rows=10, batch_size=3, n_epochs=2)

    mapped = jax.jit(jax.vmap(draw))(keys)
    for key, rows_SB in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(rows_SB, draw(key))
    assert (mapped[0] != mapped[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_rows": 0}, "n_rows=0: must be at least 1"),
        ({"n_epochs": 0}, "n_epochs=0: must be at least 1"),
        ({"batch_size": 0}, r"batch_size=0: must lie in \[1, n_rows=8\]"),
        ({"batch_size": 9}, r"batch_size=9: must lie in \[1, n_rows=8\]"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        epoch_rows(KEY, **{"n_rows": 8, "batch_size": 2, "n_epochs": 1} | arguments)
