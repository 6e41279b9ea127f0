"""Envelopes of long curves."""

import numpy as np
import pytest

from lostjax.view.envelope import find_envelope


def test_no_spike_is_hidden():
    rng = np.random.default_rng(0)
    x, y = np.arange(1, 100_001), 3 + rng.normal(0, 0.1, 100_000)
    y[71_234] = 9.0
    shape = find_envelope(x, y, bins=300)
    assert len(shape.x) == 300
    assert shape.high.max() == 9.0 and shape.low.min() == y.min()
    assert shape.x[np.argmax(shape.high)] == pytest.approx(71_235, abs=334)
    starts = np.searchsorted(x, [1, 335])
    assert shape.mean[0] == pytest.approx(y[slice(*starts)].mean(), abs=0.01)


def test_a_gap_stays_a_gap():
    x = np.r_[1:11, 500:511]
    shape = find_envelope(x, np.ones(21), bins=100)
    (gap,) = np.flatnonzero(np.isnan(shape.mean))
    assert 10 < shape.x[gap] < 500


def test_a_stretch_without_a_finite_value_is_a_gap():
    y = np.ones(100)
    y[40:60] = np.inf
    shape = find_envelope(np.arange(100), y, bins=10)
    assert np.isnan(shape.mean).sum() == np.isnan(shape.high).sum() == 2
    assert np.nanmax(shape.high) == 1.0
