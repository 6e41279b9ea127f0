"""The papers on concepts: what they read of networks that are planted."""

import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import load_digits
from lostjax.repro.papers.craft import (
    CHANGED,
    DELETION,
    INSERTION,
    RANKINGS,
    judge_order,
)
from lostjax.repro.papers.craft_recursion import AMOUNT, LEFT, judge
from lostjax.repro.papers.craft_user import centre, score_class
from lostjax.repro.problems.garment_concepts import ClassConcepts, Network

# Three concepts, each a channel: one speaks for class 0, one against it, one neither.
HEAD_MV = jnp.array([[3.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])


def make_concepts():
    u_BR = jnp.asarray(np.random.default_rng(0).random((20, 3)) + [1.0, 0.0, 2.0])
    images_BHWC = jnp.zeros((20, 1, 1, 1))
    return ClassConcepts(
        images_BHWC, u_BR, jnp.eye(3), images_BHWC, u_BR, images_BHWC, u_BR
    )


def make_network():
    def encode(x_BHWC):
        return x_BHWC[..., 0, 0, :]

    nothing = load_digits()
    return Network(encode, encode, lambda a_BM: a_BM @ HEAD_MV, nothing, nothing, 0.0)


def logit(a_BM):
    return (a_BM @ HEAD_MV)[:, 0]


@pytest.mark.parametrize(
    "ranking, order",
    [
        ("Sobol", [0, 1, 2]),  # without a sign
        ("gradient", [0, 2, 1]),
        ("gradient's sign", [0, 2, 1]),
        ("gradient x amount", [0, 2, 1]),
        ("taking out", [0, 2, 1]),
        ("amount", [2, 0, 1]),
    ],
)
def test_rankings_of_planted_concepts(ranking, order):
    scores_R = np.asarray(RANKINGS[ranking](logit, make_concepts()))
    assert np.argsort(-scores_R).tolist() == order


def test_the_order_of_the_concepts_decides_the_areas():
    network, found = make_network(), make_concepts()
    best, worst = (
        judge_order(network, found, 0, np.array(order))
        for order in ([0, 2, 1], [1, 2, 0])
    )
    assert best[DELETION] < worst[DELETION] and best[INSERTION] < worst[INSERTION]
    assert best[CHANGED] == 0
    # The logit falls from p - n to -n, stays, and rises to 0.
    p, n = 3 * float(found.u_BR[:, 0].mean()), 2 * float(found.u_BR[:, 1].mean())
    whole = p - n
    curve = np.array([whole, -n, -n, 0]) / whole
    assert best[DELETION] == pytest.approx(np.trapezoid(curve) / 3, rel=1e-4)


def test_a_user_knows_a_crop_that_it_was_shown():
    rng = np.random.default_rng(0)
    crops_NHWC = jnp.asarray(rng.random((6, 3, 3, 1)), jnp.float32)
    seen_BPX = centre(crops_NHWC).reshape(3, 2, 9)  # three images of two crops
    for image in range(3):
        brighter = 0.5 * crops_NHWC[2 * image + 1][None] + 0.3
        assert score_class(seen_BPX, centre(brighter)).argmax() == image
    flat = centre(jnp.ones((1, 3, 3, 1)))
    np.testing.assert_array_equal(score_class(seen_BPX, flat), [0, 0, 0])


def test_concepts_that_span_the_activations_leave_nothing():
    rng = np.random.default_rng(0)
    seen_NM, unseen_NM = (jnp.asarray(rng.random((60, 3))) for _ in range(2))
    given = {
        "strength_N": np.asarray(seen_NM)[:, 0],
        "unseen_N": np.asarray(unseen_NM)[:, 0],
    }
    whole = judge(jnp.eye(3), seen_NM, unseen_NM, **given)
    assert whole[LEFT] < 0.1 and whole[AMOUNT] < 0.1
    others = judge(jnp.eye(3)[1:], seen_NM, unseen_NM, **given)
    assert others[LEFT] > 50 and others[AMOUNT] > 80
