"""Dice and Tversky losses against the authors' code, optax and scikit-learn's F1."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score

from lostjax import losses

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "authors.json").read_text())
LOGITS = jnp.array(GOLDEN["logits"])
CLASSES = jnp.array(GOLDEN["classes"])
STATIC = ("alpha", "squared", "stop_gradient_weight")
# In one program each: op by op, each operation would compile.
dice_loss = jax.jit(losses.dice_loss, static_argnames=STATIC)
multiclass_dice_loss = jax.jit(losses.multiclass_dice_loss, static_argnames=STATIC)
set_dice_loss = jax.jit(losses.set_dice_loss, static_argnames=STATIC)
set_tversky_loss = jax.jit(losses.set_tversky_loss)
hard_negative_mask = jax.jit(losses.hard_negative_mask)


@pytest.mark.parametrize("case", GOLDEN["dice"], ids=range(len(GOLDEN["dice"])))
def test_dice_is_that_of_the_authors_code(case):
    options = {name: case[name] for name in ("smooth", "squared", "alpha")}
    found = set_dice_loss(LOGITS[:, 0], CLASSES == 0, **options)
    np.testing.assert_allclose(found, case["set"], rtol=1e-6)
    if "classes" in case:
        found = multiclass_dice_loss(LOGITS, CLASSES, **options)
        np.testing.assert_allclose(found, case["classes"], rtol=1e-5)


def test_set_losses_are_those_of_optax():
    z, y = LOGITS[:, 0], CLASSES == 0
    expected = jax.jit(optax.losses.binary_dice_loss)(
        z[None, :, None], y[None, :, None].astype(float), smooth=0.5
    )
    found = set_dice_loss(z, y, squared=False)
    np.testing.assert_allclose(found, expected[0], rtol=1e-6)
    classes = jnp.stack([jnp.zeros(12), z], axis=-1)[None]  # its softmax is ours
    dice = partial(optax.losses.dice_loss, alpha=0.3, beta=0.7, ignore_background=True)
    expected = jax.jit(dice)(classes, jax.nn.one_hot(y.astype(int), 2)[None])
    found = set_tversky_loss(z, y, false_positive_cost=0.3, false_negative_cost=0.7)
    np.testing.assert_allclose(found, expected[0], rtol=1e-6)
    half = set_tversky_loss(z, y, smooth=0.5)
    np.testing.assert_allclose(half, set_dice_loss(z, y, squared=False), rtol=1e-6)


def test_dice_of_hard_predictions_is_one_minus_f1():
    guess = np.arange(40) % 3 == 0
    labels = np.arange(40) % 5 == 0
    z = jnp.where(guess, 100.0, -100.0)
    expected = 1 - f1_score(labels, guess)
    for squared in (False, True):
        found = set_dice_loss(z, jnp.array(labels), smooth=0.0, squared=squared)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_example_alone_is_a_set_of_one():
    z, y = LOGITS[:, 0], CLASSES == 0
    one = partial(losses.set_dice_loss, alpha=0.1, smooth=0.3)
    alone = jax.jit(jax.vmap(one))(z, y)
    found = dice_loss(z, y, alpha=0.1, smooth=0.3)
    np.testing.assert_allclose(found, alone, rtol=1e-6)


def test_a_weight_is_a_number_of_copies():
    z, y = LOGITS[:, 0], CLASSES == 0
    copies = np.arange(12) % 3
    twice = [jnp.array(np.repeat(each, copies)) for each in (z, y)]
    for loss in (set_dice_loss, set_tversky_loss):
        found = loss(z, y, weights=jnp.array(copies, jnp.float32))
        np.testing.assert_allclose(found, loss(*twice), rtol=1e-6)


@partial(jax.jit, static_argnames=STATIC)
def slope(logit, label, **options):
    return jax.grad(losses.dice_loss)(logit, label, **options)


def slopes(logits, label, **options):
    return [slope(jnp.float32(logit), jnp.int32(label), **options) for logit in logits]


def test_the_self_adjusting_weight_turns_where_it_says_unless_it_is_constant():
    turn = float(np.log(1 / 0.5))  # p = 1 / (1 + alpha) at alpha = 0.5
    around = turn - 0.1, turn + 0.1
    signs = {label: np.sign(slopes(around, label, alpha=0.5)) for label in (0, 1)}
    np.testing.assert_array_equal(signs[1], [-1, 1])
    np.testing.assert_array_equal(signs[0], [1, -1])
    for label, sign in ((0, 1), (1, -1)):
        constant = slopes(around, label, alpha=0.5, stop_gradient_weight=True)
        np.testing.assert_array_equal(np.sign(constant), sign)


def test_without_squares_a_negative_near_zero_is_steeper_than_a_positive():
    z = -8.0
    p = 1 / (1 + np.exp(8.0))
    for label, expected in ((0, 1.0), (1, -0.75)):
        (found,) = slopes([z], label, squared=False)
        np.testing.assert_allclose(found / (p * (1 - p)), expected, rtol=1e-2)
    (found,) = slopes([z], 0)
    np.testing.assert_allclose(found / (p * (1 - p)), 2 * p, rtol=1e-2)


def test_saturated_logits_have_finite_values_and_gradients():
    z = jnp.array([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0]])
    labels = jnp.array([0, 1])

    @jax.jit
    @jax.value_and_grad
    def total(z):
        one = partial(losses.multiclass_dice_loss, z, labels, smooth=0.0)
        return jnp.sum(one(alpha=0.0) + one(alpha=0.01) + one(alpha=1.0))

    value, gradient = total(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_set_without_positives_or_anything_has_a_value():
    labels = jnp.zeros(3, int)

    @jax.jit
    @jax.value_and_grad
    def loss(logits, weights):
        return losses.set_dice_loss(logits, labels, smooth=0.0, weights=weights)

    there, nowhere = jnp.ones(3), jnp.zeros(3)
    assert loss(jnp.zeros(3), there)[0] == 1
    assert loss(jnp.full(3, -jnp.inf), there)[0] == 0
    assert np.isnan(loss(jnp.full(3, jnp.nan), there)[0])
    value, gradient = loss(jnp.full(3, jnp.nan), nowhere)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_positives_stay_and_the_hardest_negatives():
    scores = jnp.array([5.0, 1.0, 3.0, 3.0, -jnp.inf, 9.0])
    labels = jnp.array([0, 1, 0, 0, 0, 1])
    for k, kept in ((0, []), (1, [0]), (2, [0, 2]), (3, [0, 2, 3]), (9, [0, 2, 3, 4])):
        mask = hard_negative_mask(scores, labels, k=jnp.int32(k))
        assert np.flatnonzero(mask).tolist() == sorted([*kept, 1, 5])
    there = jnp.array([False, False, True, True, True, True])
    mask = hard_negative_mask(scores, labels == 1, k=jnp.int32(1), where=there)
    assert np.flatnonzero(mask).tolist() == [2, 5]


def test_bad_input_is_named():
    z, y = jnp.zeros(2), jnp.array([0, 1])
    for loss in (losses.dice_loss, losses.set_dice_loss, losses.set_tversky_loss):
        with pytest.raises(ValueError, match="labels: holds 2, must be 0 or 1"):
            loss(z, jnp.array([0, 2]))
        with pytest.raises(ValueError, match="smooth=-1"):
            loss(z, y, smooth=-1.0)
    with pytest.raises(ValueError, match="alpha=-0.1"):
        losses.dice_loss(z, y, alpha=-0.1)
    with pytest.raises(ValueError, match="weights: holds -1.0"):
        losses.set_dice_loss(z, y, weights=jnp.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="false_negative_cost=-1"):
        losses.set_tversky_loss(z, y, false_negative_cost=-1.0)
    with pytest.raises(ValueError, match=r"labels: holds 3, must lie in \[0, 3\)"):
        losses.multiclass_dice_loss(LOGITS, CLASSES.at[0].set(3))
    with pytest.raises(ValueError, match="k=-1"):
        losses.hard_negative_mask(z, y, k=-1)
    traced = multiclass_dice_loss(LOGITS, CLASSES.at[0].set(-1))
    assert np.isnan(traced[0]) and not np.isnan(traced[1:]).any()
