"""Episodes: distinct classes, distinct rows of them, and data that cannot fill one."""

import jax
import numpy as np
import pytest

from lostjax.data import DataError, draw_episode

# Classes of unequal size, in no order, with labels that are no places.
LABELS = np.random.default_rng(0).permutation(np.repeat([7, -2, 40, 11], [5, 6, 9, 5]))
SHAPE = {"way": 3, "shot": 2, "query": 3}
N_EPISODES = 200


@pytest.fixture(scope="module")
def many():
    keys = jax.random.split(jax.random.key(0), N_EPISODES)
    draw = jax.jit(jax.vmap(lambda key: draw_episode(LABELS, key=key, **SHAPE)))
    return jax.tree.map(np.asarray, draw(keys))


def test_each_row_is_of_its_class_and_occurs_once(many):
    assert many.support_NS.shape == (N_EPISODES, 3, 2)
    assert many.query_NQ.shape == (N_EPISODES, 3, 3)
    rows = np.concatenate([many.support_NS, many.query_NQ], axis=-1)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(
        LABELS[rows], np.broadcast_to(many.classes_N[..., None], rows.shape)
    )
    for each in rows.reshape(N_EPISODES, -1):
        assert len(set(each)) == 15
    for classes in many.classes_N:
        assert len(set(classes)) == 3


def test_classes_and_rows_are_drawn_alike(many):
    counts = np.unique(many.classes_N, return_counts=True)[1]
    np.testing.assert_allclose(counts, 150, atol=30)
    largest = many.support_NS[many.classes_N == 40]
    of_rows = np.bincount(largest.ravel(), minlength=25)[LABELS == 40]
    expected = len(largest) * 2 / 9
    np.testing.assert_allclose(of_rows, expected, atol=4 * expected**0.5)


def test_one_key_is_one_episode(many):
    key = jax.random.split(jax.random.key(0), N_EPISODES)[3]
    alone = draw_episode(LABELS, key=key, **SHAPE)
    jax.tree.map(
        lambda one, all_: np.testing.assert_array_equal(one, all_[3]), alone, many
    )


@pytest.mark.parametrize("change", [{"way": 0}, {"shot": 0}, {"query": -1}], ids=str)
def test_numbers_below_one_are_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}: must be at least 1"):
        draw_episode(LABELS, key=jax.random.key(0), **SHAPE | change)


def test_data_that_cannot_fill_an_episode_are_an_error():
    key = jax.random.key(0)
    with pytest.raises(DataError, match=r"way=5: the labels hold 4 class\(es\)"):
        draw_episode(LABELS, key=key, way=5, shot=1, query=1)
    with pytest.raises(DataError, match=r"class 7 has 5 example\(s\).*shot=2.*query=4"):
        draw_episode(LABELS, key=key, way=2, shot=2, query=4)
    with pytest.raises(DataError, match="way=1: the labels hold 0"):
        draw_episode(LABELS[:0], key=key, way=1, shot=1, query=1)
