"""Kept channels and sparse supports: what they are for any scores and any sizes."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lostjax.nn import (
    InitialMatrix,
    count_channels,
    largest_channels,
    random_channels,
    residual_norm_channels,
    select_channels,
)
from lostjax.nn.initializers.support import sample_support

KEY = jax.random.key(0)
# One program a case: op by op, each operation would compile.
select = jax.jit(select_channels, static_argnames=("n_channels", "groups"))
supported = partial(jax.jit, static_argnames=("size", "n_entries"))(sample_support)


@st.composite
def choices(draw):
    groups = draw(st.integers(1, 4))
    width = draw(st.integers(1, 8))
    n_channels = groups * draw(st.integers(0, width))
    # Few values: many ties.
    score = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    scores = draw(st.lists(score, min_size=groups * width, max_size=groups * width))
    return np.asarray(scores, np.float32), n_channels, groups


@settings(max_examples=40, deadline=None)
@given(choices())
def test_selected_channels_are_the_best_of_each_group(choice):
    scores, n_channels, groups = choice
    kept = select(scores, n_channels=n_channels, groups=groups)
    assert kept.dtype == jnp.int32
    kept = np.asarray(kept)
    assert kept.shape == (n_channels,)
    assert np.all(np.diff(kept) > 0)
    assert np.all((kept >= 0) & (kept < len(scores)))
    width = len(scores) // groups
    for group in range(groups):
        inside = kept[kept // width == group]
        assert len(inside) == n_channels // groups
        rest = np.setdiff1d(np.arange(group * width, (group + 1) * width), inside)
        if len(inside) and len(rest):
            assert scores[inside].min() >= scores[rest].max()


@pytest.mark.parametrize(
    "n_channels, groups, message",
    [
        (4, 3, "channel_groups=3 does not divide the 8 inputs"),
        (3, 2, "channel_groups=2 does not divide the 3 kept"),
        (4, 0, "channel_groups=0 must be at least 1"),
        (9, 1, "n_channels=9 is not within 0 to 8"),
    ],
)
def test_groups_that_do_not_fit_are_refused(n_channels, groups, message):
    with pytest.raises(ValueError, match=message):
        select_channels(jnp.zeros(8), n_channels=n_channels, groups=groups)


@pytest.mark.parametrize(
    "n_inputs, delta, expected",
    [(512, 0.01, 5), (512, 0.0, 0), (50, 0.01, 1), (100, 0.29, 29), (7, 1.0, 7)],
)
def test_count_of_channels(n_inputs, delta, expected):
    assert count_channels(n_inputs, delta) == expected


def test_scores_are_what_their_names_say():
    dense = jax.random.normal(KEY, (24, 40))
    dense = dense.at[5].multiply(4.0)

    @jax.jit
    def score_all(key, dense):
        initial = InitialMatrix(dense, 6)
        scores = largest_channels, residual_norm_channels, random_channels
        return [score(key, initial) for score in scores]

    largest, residual, one = score_all(KEY, dense)
    norms = np.linalg.norm(dense, axis=1)
    np.testing.assert_allclose(largest, norms**2, rtol=1e-5)
    # The largest channel is what the low-rank part takes first.
    assert np.argmax(largest) == 5
    assert np.argmax(residual) != 5
    _, _, other = score_all(jax.random.key(1), dense)
    assert one.shape == (24,) and not np.allclose(one, other)


@pytest.mark.parametrize("n_entries", [0, 1, 30, 50, 51, 99, 100])
def test_supports_are_sorted_and_unique(n_entries):
    support = supported(KEY, size=100, n_entries=n_entries)
    assert support.dtype == jnp.int32 and support.shape == (n_entries,)
    assert np.all(np.diff(support) > 0)
    assert np.all((support >= 0) & (support < 100))


@pytest.mark.parametrize("n_entries", [2, 4])
def test_every_support_is_equally_likely(n_entries):
    keys = jax.random.split(KEY, 6000)
    draw = jax.jit(
        jax.vmap(lambda key: sample_support(key, size=6, n_entries=n_entries))
    )
    counts = Counter(map(tuple, np.asarray(draw(keys)).tolist()))
    assert len(counts) == 15
    chi_squared = sum((count - 400) ** 2 / 400 for count in counts.values())
    assert chi_squared < 36.1  # 14 degrees of freedom: one in a thousand


def test_supports_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="size=2147483648 must be below"):
        sample_support(KEY, size=2**31, n_entries=1)
    with pytest.raises(ValueError, match="n_entries=5 is not within 0 to 4"):
        sample_support(KEY, size=4, n_entries=5)
