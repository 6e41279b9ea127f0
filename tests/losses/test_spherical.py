"""Spherical losses: their formulas in float64, what they are invariant to, edges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 9)).astype(np.float32)
TARGETS = jnp.array(RNG.integers(0, 9, 5))
HOT = np.eye(9)[np.asarray(TARGETS)]
# In one program each: op by op, each operation would compile.
z_loss = jax.jit(losses.z_loss)


def naive_z(o, a, b):
    score = (o - o.mean(-1, keepdims=True)) / o.std(-1, keepdims=True)
    return np.log1p(np.exp(a * (b - (score * HOT).sum(-1)))) / a


def naive_taylor(o):
    powers = 1 + o + o**2 / 2
    return -np.log((powers * HOT).sum(-1) / powers.sum(-1))


def naive_spherical(o):
    squares = o**2 + 0.01
    return -np.log((squares * HOT).sum(-1) / squares.sum(-1))


def naive_square(o):
    return ((o - HOT) ** 2).sum(-1)


ROWS = {
    "z": (
        partial(losses.z_loss, scale=0.7, shift=1.5),
        partial(losses.z_loss_from_sums, n_classes=9, scale=0.7, shift=1.5),
        lambda o: naive_z(o, 0.7, 1.5),
    ),
    "taylor": (
        losses.taylor_softmax_loss,
        partial(losses.taylor_softmax_loss_from_sums, n_classes=9),
        naive_taylor,
    ),
    "spherical": (
        partial(losses.spherical_softmax_loss, floor=0.01),
        partial(losses.spherical_softmax_loss_from_sums, n_classes=9, floor=0.01),
        naive_spherical,
    ),
    "square": (
        losses.spherical_squared_error,
        losses.spherical_squared_error_from_sums,
        naive_square,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_both_forms_are_the_formula_and_have_one_gradient(name):
    of_logits, of_sums, expected = ROWS[name]

    @jax.jit
    def run(z):
        forms = of_logits, lambda z, t: of_sums(losses.sum_logits(z, t))
        pulled = [jax.vjp(lambda z, f=form: f(z, TARGETS), z) for form in forms]
        return [(value, pull(jnp.arange(1.0, 6))[0]) for value, pull in pulled]

    (first, slope), (second, other) = run(LOGITS)
    for value in (first, second):
        np.testing.assert_allclose(value, expected(LOGITS.astype(float)), rtol=1e-5)
    np.testing.assert_allclose(slope, other, rtol=1e-4, atol=1e-6)
    assert np.abs(slope).max() > 0.1


def test_z_loss_ignores_shift_and_scale_and_so_does_its_gradient():
    found = z_loss(LOGITS, TARGETS)
    for changed in (LOGITS + 3, LOGITS * 7, LOGITS / 100 + 1):
        np.testing.assert_allclose(z_loss(changed, TARGETS), found, rtol=2e-5)
    gradient = jax.jit(jax.grad(lambda z: losses.z_loss(z, TARGETS).sum()))(LOGITS)
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-6)
    centred = LOGITS - LOGITS.mean(-1, keepdims=True)
    np.testing.assert_allclose((gradient * centred).sum(-1), 0, atol=1e-6)


def test_logits_far_from_zero_keep_their_digits():
    far = np.round(LOGITS * 64) / 64 + 1e4  # exact in float32
    expected = naive_z(far.astype(float), 1.0, 0.0)
    found = z_loss(far.astype(np.float32), TARGETS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_equal_logits_have_score_0_and_no_gradient(value):
    z = jnp.full((5, 9), value, jnp.float32)

    @jax.jit
    def both(z):
        sums = losses.sum_logits(z, TARGETS)
        other = losses.z_loss_from_sums(sums, n_classes=9)
        return jnp.stack([losses.z_loss(z, TARGETS), other])

    np.testing.assert_allclose(both(z), np.log(2), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda z: both(z).sum()))(z)
    np.testing.assert_array_equal(gradient, 0)


def test_a_shift_above_the_largest_score_never_flattens():
    alone = np.where(np.arange(9) == 2, 1.0, 0.0).astype(np.float32)
    found = z_loss(alone, jnp.array(2), shift=np.sqrt(8))
    np.testing.assert_allclose(found, np.log(2), rtol=1e-5)


def test_nan_and_labels_that_are_no_class_show():
    for target in (-1, 9):
        assert np.isnan(z_loss(LOGITS, TARGETS.at[0].set(target))[0])
    broken = LOGITS.copy()
    broken[0, 0], broken[1, 0] = np.nan, np.inf
    found = z_loss(broken, TARGETS)
    assert np.isnan(found).tolist() == [True, True, False, False, False]


def test_bad_input_is_named():
    z, t = jnp.zeros((2, 3)), jnp.array([0, 1])
    for loss in (losses.z_loss, losses.taylor_softmax_loss, losses.sum_logits):
        with pytest.raises(ValueError, match=r"targets: holds 3, must lie in \[0, 3\)"):
            loss(z, t.at[0].set(3))
        with pytest.raises(ValueError, match="n_classes=1: must be at least 2"):
            loss(z[:, :1], jnp.array([0, 0]))
    with pytest.raises(ValueError, match="scale=0"):
        losses.z_loss(z, t, scale=0.0)
    sums = losses.LogitSums(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    for loss in (losses.z_loss_from_sums, losses.taylor_softmax_loss_from_sums):
        with pytest.raises(ValueError, match="n_classes=1"):
            loss(sums, n_classes=1)
