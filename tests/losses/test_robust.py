"""KL-DRO against scipy's optimiser, small losses, and weights of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from lostjax import losses

RNG = np.random.default_rng(0)
VALUES = jnp.array(RNG.uniform(0, 5, 6), jnp.float32)
PRIOR = jnp.array([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])
# In one program each: op by op, each operation would compile.
weigh = jax.jit(losses.kl_dro_weights)
bound = jax.jit(jax.value_and_grad(losses.set_kl_dro_loss))
surprise = jax.jit(losses.surprisal_weights, static_argnames=("alpha", "min_weight"))


def test_weights_maximise_the_penalised_mean():
    values, r = np.asarray(VALUES, float), 1.3

    def negative(w):
        return r * np.sum(w * np.log(6 * w)) - w @ values

    best = minimize(
        negative,
        np.full(6, 1 / 6),
        bounds=[(1e-9, 1)] * 6,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(weigh(VALUES, temperature=r), best.x, atol=1e-4)
    np.testing.assert_allclose(weigh(VALUES, temperature=r), softmax(values / r), 1e-5)
    np.testing.assert_allclose(bound(VALUES, temperature=r)[0], -best.fun, rtol=1e-5)


@pytest.mark.parametrize("r", [1e-6, 1e-2, 1.0, 4.9, 5.1, 1e2, 1e6])
def test_the_loss_keeps_its_digits_at_every_temperature(r):
    many = jnp.array(RNG.uniform(0, 5, 40), jnp.float32)
    share = np.arange(40) % 7 / (np.arange(40) % 7).sum()
    expected = r * logsumexp(np.asarray(many, float) / r, b=share)
    prior = jnp.arange(40.0) % 7
    found, gradient = bound(many, temperature=r, weights=prior)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    weights = weigh(many, temperature=r, prior_B=prior)
    np.testing.assert_allclose(gradient, weights, rtol=1e-4, atol=1e-6)


def test_limits_of_the_temperature_are_the_mean_and_the_maximum():
    share = np.asarray(PRIOR) / PRIOR.sum()
    found, gradient = bound(VALUES, temperature=jnp.inf, weights=PRIOR)
    np.testing.assert_allclose(found, share @ np.asarray(VALUES), rtol=1e-6)
    np.testing.assert_allclose(gradient, share, rtol=1e-6)
    hot = weigh(VALUES, temperature=jnp.inf, prior_B=PRIOR)
    np.testing.assert_array_equal(hot, share.astype(np.float32))
    worst = np.argmax(np.where(share > 0, VALUES, -1))
    cold = weigh(VALUES, temperature=1e-6, prior_B=PRIOR)
    np.testing.assert_allclose(cold, np.arange(6) == worst)
    large, _ = bound(300 + VALUES, temperature=1.0)  # exp(300) overflows
    np.testing.assert_allclose(large, 300 + logsumexp(VALUES) - np.log(6), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_diverged_shows_only_if_it_counts(value):
    broken = VALUES.at[2].set(value)
    assert np.isfinite(weigh(broken, temperature=1.0, prior_B=PRIOR)).all()
    found, gradient = bound(broken, temperature=1.0, weights=PRIOR)
    assert np.isfinite(found) and np.isfinite(gradient).all()
    if value != -np.inf:
        assert np.isnan(weigh(broken, temperature=1.0)).all()
        assert np.isnan(bound(broken, temperature=1.0)[0])


def test_small_losses_are_kept_as_argsort_has_them():
    values = jnp.array([3.0, 1.0, 2.0, 1.0, 9.0, 1.0])
    for k in (1, 2, 4, 6, 9):
        kept = np.flatnonzero(losses.small_loss_mask(values, k=k))
        order = np.argsort(values, kind="stable")
        np.testing.assert_array_equal(kept, np.sort(order[:k]))
    schedule = jax.jit(lambda k: losses.small_loss_mask(values, k=k))
    assert [int(schedule(k).sum()) for k in (2, 5)] == [2, 5], "k may be traced"


def logits_of(p):
    """Logits over 3 tokens that give the first probability p."""
    rest = (1 - np.asarray(p)) / 2
    return jnp.array(np.log(np.stack([p, rest, rest], axis=-1)), jnp.float32)


P = np.array([[0.9, 0.5, 0.1, 0.7], [0.3, 0.3, 0.3, 0.3]])
FIRST = jnp.zeros((2, 4), jnp.int32)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_weights_of_tokens_are_their_surprisal_with_mean_1(alpha):
    raw = (1 - P) ** alpha
    found = surprise(logits_of(P), FIRST, alpha=alpha)
    np.testing.assert_allclose(found, raw / raw.mean(-1, keepdims=True), rtol=1e-5)
    there = jnp.array([[1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    broken = logits_of(P).at[0, 1].set(jnp.nan)
    found = surprise(broken, FIRST, alpha=alpha, weights=there)
    np.testing.assert_allclose(found[0] @ there[0], 4, rtol=1e-5)
    np.testing.assert_allclose(found[0, 2] / found[0, 0], 9**alpha, rtol=1e-5)
    assert found[0, 1] == 0 and not found[1].any()


def test_a_certain_reference_weighs_all_tokens_alike_and_a_floor_keeps_them():
    certain = jnp.zeros((2, 4, 3)).at[..., 0].set(1e3)
    np.testing.assert_array_equal(surprise(certain, FIRST), 1)
    mixed = certain.at[:, 3].set(0.0)
    np.testing.assert_allclose(surprise(mixed, FIRST)[0], [0, 0, 0, 4], rtol=1e-6)
    found = surprise(mixed, FIRST, min_weight=0.5)[0]
    np.testing.assert_allclose(found[:3], found[3] * 0.75, rtol=1e-5)
    tiny = surprise(logits_of(np.full((2, 4), 1 - 1e-6)), FIRST)
    np.testing.assert_allclose(tiny, 1, rtol=1e-5)
    assert np.isnan(surprise(mixed.at[0, 0].set(jnp.nan), FIRST)[0]).all()


def test_no_gradient_flows_through_weights_of_tokens():
    gradient = jax.jit(jax.grad(lambda z: losses.surprisal_weights(z, FIRST)[0, 0]))(
        logits_of(P)
    )
    np.testing.assert_array_equal(gradient, 0)


def test_bad_input_is_named():
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="temperature="):
            losses.kl_dro_weights(VALUES, temperature=bad)
        with pytest.raises(ValueError, match="temperature="):
            losses.set_kl_dro_loss(VALUES, temperature=bad)
    with pytest.raises(ValueError, match=r"losses_B=\[\]: must hold at least one"):
        losses.kl_dro_weights(jnp.zeros(0), temperature=1.0)
    with pytest.raises(ValueError, match="prior_B: holds -1"):
        losses.kl_dro_weights(VALUES, temperature=1.0, prior_B=-PRIOR)
    with pytest.raises(ValueError, match="k=0: must be positive"):
        losses.small_loss_mask(VALUES, k=0)
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="min_weight="):
            losses.surprisal_weights(logits_of(P), FIRST, min_weight=bad)
    with pytest.raises(ValueError, match="alpha=-1"):
        losses.surprisal_weights(logits_of(P), FIRST, alpha=-1.0)
