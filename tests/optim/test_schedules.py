"""The schedule against optax's own, and its edges."""

import numpy as np
import optax
import pytest

from lostjax.optim import mask_decayed, warmup_cosine_schedule


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
