"""The schedule against optax's own, and its edges."""

import numpy as np
import optax
import pytest

from lostjax.optim import (
    mask_decayed,
    warmup_cosine_schedule,
    warmup_stable_decay_schedule,
)


def test_cosine_part_equals_optax():
    ours = warmup_cosine_schedule(0.5, steps=110, warmup_steps=10, final_fraction=0.1)
    theirs = optax.cosine_decay_schedule(0.5, decay_steps=100, alpha=0.1)
    steps = np.arange(10, 130)
    np.testing.assert_allclose(
        [ours(t) for t in steps], [theirs(t - 10) for t in steps], rtol=1e-5
    )


def test_warm_up_rises_from_a_positive_rate_to_the_peak():
    schedule = warmup_cosine_schedule(1.0, steps=100, warmup_steps=4)
    np.testing.assert_allclose(
        [schedule(t) for t in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "arguments", [{"steps": 0}, {"warmup_steps": 10}, {"final_fraction": 1.5}]
)
def test_bad_arguments_are_named(arguments):
    values = {"steps": 10, "warmup_steps": 1, "final_fraction": 0.1} | arguments
    with pytest.raises(ValueError, match=next(iter(arguments))):
        warmup_cosine_schedule(1.0, **values)


def test_scales_are_not_decayed_and_matrices_are():
    params = {
        "layers": {"norm": {"scale": np.ones((2, 4))}, "q": {"a": np.ones((2, 4, 3))}},
        "gamma": np.ones(2),
        "head": {"kernel": np.ones((4, 5))},
    }
    assert mask_decayed(params) == {
        "layers": {"norm": {"scale": False}, "q": {"a": True}},
        "gamma": False,
        "head": {"kernel": True},
    }


def test_wsd_keeps_the_peak_until_a_linear_decay():
    schedule = warmup_stable_decay_schedule(
        0.5, steps=20, warmup_steps=2, decay_steps=4, final_fraction=0.2
    )
    rates = [float(schedule(step)) for step in range(22)]
    assert rates[:2] == [0.25, 0.5] and set(rates[2:17]) == {0.5}
    theirs = optax.linear_schedule(0.5, 0.1, transition_steps=4)
    np.testing.assert_allclose(rates[16:], [theirs(t) for t in range(6)], rtol=1e-6)
    flat = warmup_stable_decay_schedule(0.5, steps=9, warmup_steps=0, decay_steps=0)
    assert {float(flat(step)) for step in range(12)} == {0.5}
    with pytest.raises(ValueError, match=r"decay_steps=4: must lie in \[0, 3\]"):
        warmup_stable_decay_schedule(1.0, steps=5, warmup_steps=2, decay_steps=4)
