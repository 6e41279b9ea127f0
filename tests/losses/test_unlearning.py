"""Unlearning: divergences are true conjugates, and every loss forgets."""

import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, softmax, xlogy

from lostjax import losses

pytestmark = pytest.mark.newest


@pytest.fixture
def unchecked_types():
    """Call as users do, for whom no shapes are checked by their annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


F = {
    losses.total_variation: lambda u: abs(u - 1) / 2,
    losses.kl_divergence: lambda u: xlogy(u, u),
    losses.reverse_kl_divergence: lambda u: -math.log(u),
    losses.jensen_shannon_divergence: lambda u: (
        xlogy(u, u) - (u + 1) * math.log((u + 1) / 2)
    ),
    losses.pearson_divergence: lambda u: (u - 1) ** 2,
    losses.neyman_divergence: lambda u: (u - 1) ** 2 / u,
    losses.squared_hellinger: lambda u: (math.sqrt(u) - 1) ** 2,
    losses.jeffreys_divergence: lambda u: (u - 1) * math.log(u),
}
"""The f of each divergence, from its definition."""

every_divergence = pytest.mark.parametrize("divergence", F, ids=lambda d: d.__name__)


def conjugate(f, t):
    """sup_u (u t - f(u)) over u > 0, by search."""
    found = minimize_scalar(
        lambda u: f(u) - u * t,
        bounds=(1e-9, 50),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return -found.fun


@every_divergence
def test_the_second_term_is_the_conjugate_at_the_first(divergence):
    # The series of Jeffreys lacks the powers from v^4.
    short = 0.018 if divergence is losses.jeffreys_divergence else 0.0
    for v in np.linspace(0, 1, 6):
        g, term = divergence(jnp.asarray(v))
        true = conjugate(F[divergence], float(g))
        assert -1e-5 <= true - float(term) <= short * v**4 + 1e-5


@every_divergence
def test_the_variational_form_never_exceeds_the_divergence(divergence):
    """E_P g - E_Q f*(g) <= D_f(P || Q), for any v, and for distributions alike."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(5), size=2)
        v = jnp.asarray(rng.uniform(0, 1, size=5))
        g, term = divergence(v)
        bound = np.sum(q * np.array([F[divergence](u) for u in p / q]))
        assert float(np.sum(p * g) - np.sum(q * term)) <= bound + 1e-6


@every_divergence
def test_descending_teaches_the_template_and_forgets_the_answer(divergence):
    slopes = jax.jit(
        jax.grad(
            lambda e, f: losses.flat_loss(e, f, divergence=divergence), argnums=(0, 1)
        )
    )
    for e, f in [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]:
        by_template, by_forgotten = slopes(e, f)
        assert by_template < 0 < by_forgotten


GOLDENS = {
    losses.kl_divergence: 0.470320,
    losses.jeffreys_divergence: 0.503500,
    losses.pearson_divergence: 0.490000,
    losses.jensen_shannon_divergence: 0.249333,
    losses.total_variation: 0.169837,
}
"""The authors' code at P(e) = .2 and P(f) = .6."""


@pytest.mark.parametrize("divergence", GOLDENS, ids=lambda d: d.__name__)
def test_values_are_those_of_the_authors(divergence):
    got = losses.flat_loss(jnp.array([0.2]), jnp.array([0.6]), divergence=divergence)
    np.testing.assert_allclose(got, [GOLDENS[divergence]], atol=1e-6)


@pytest.mark.parametrize(
    "divergence, value",
    [(losses.reverse_kl_divergence, -0.378597), (losses.squared_hellinger, -0.229786)],
    ids=["reverse kl", "squared hellinger"],
)
def test_two_of_the_authors_divergences_are_ours_at_the_negated_probability(
    divergence, value
):
    """Their exp(v) for exp(-v), which turns the direction of the loss around."""
    term = divergence(jnp.float32(-0.6)).conjugate - divergence(jnp.float32(-0.2)).g
    np.testing.assert_allclose(term, value, atol=1e-6)


def test_a_log_probability_is_refused(unchecked_types):
    good, bad = jnp.array([0.2, 0.3]), jnp.array([0.2, -1.2])
    with pytest.raises(ValueError, match=r"template_probability_B: holds -1.2"):
        losses.flat_loss(bad, good)
    with pytest.raises(ValueError, match=r"forget_probability_B: holds -1.2"):
        losses.flat_loss(good, bad)
    traced = jax.jit(losses.flat_loss)(good, bad)
    assert np.isfinite(traced[0]) and np.isnan(traced[1])
    with pytest.raises(ValueError, match="forget_probability_B: shape"):
        losses.flat_loss(good, good[:1])


def test_the_mean_is_over_the_answer_alone(unchecked_types):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 5)), rng.integers(0, 5, (2, 4))
    weights = np.array([[0, 1, 1, 0], [0, 0, 0, 0]])
    logits[0, 3] = np.nan  # padding may hold anything
    got = losses.mean_token_probability(
        jnp.asarray(logits), jnp.asarray(targets), weights_T=jnp.asarray(weights * 1.0)
    )
    shares = softmax(logits[0, 1:3], axis=-1)[[0, 1], targets[0, 1:3]]
    np.testing.assert_allclose(got, [shares.mean(), 0], rtol=1e-6)
    with pytest.raises(ValueError, match="targets_T: shape"):
        losses.mean_token_probability(jnp.ones((2, 4, 5)), jnp.ones((2, 3), int))


def test_preferences_are_their_definitions():
    now, before = np.array([-3.0, -0.5]), np.array([-1.0, -0.2])
    other, other_before = np.array([-2.0, -4.0]), np.array([-5.0, -6.0])
    now_B, before_B, other_B, other_before_B = map(
        jnp.asarray, (now, before, other, other_before)
    )
    np.testing.assert_allclose(
        losses.negative_preference_loss(now_B, before_B, beta=0.4),
        -2 / 0.4 * log_expit(-0.4 * (now - before)),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.simple_npo_loss(now_B, jnp.array([3, 2]), beta=2.5, margin=0.3),
        -2 / 2.5 * log_expit(-2.5 * now / [3, 2] - 0.3),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.direct_preference_loss(
            other_B,
            now_B,
            chosen_reference_B=other_before_B,
            rejected_reference_B=before_B,
            beta=0.4,
        ),
        -np.log(expit(0.4 * ((other - other_before) - (now - before)))),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.gradient_difference(-now_B, -other_B, retain_weight=2.0), now - 2 * other
    )


def test_npo_with_a_small_beta_has_the_gradient_of_ascent():
    slope = jax.grad(
        lambda x: losses.negative_preference_loss(x, jnp.float32(-1.0), beta=1e-4)
    )
    np.testing.assert_allclose(slope(jnp.float32(-5.0)), 1, rtol=1e-3)


def test_preferences_refuse_bad_input(unchecked_types):
    two, one = jnp.array([-1.0, -2.0]), jnp.array([-1.0])
    with pytest.raises(ValueError, match="reference_B: shape"):
        losses.negative_preference_loss(two, one)
    with pytest.raises(ValueError, match="beta=0: must be positive"):
        losses.negative_preference_loss(two, two, beta=0)
    with pytest.raises(ValueError, match="lengths_B: shape"):
        losses.simple_npo_loss(two, one)
    with pytest.raises(ValueError, match="beta=-1: must be positive"):
        losses.simple_npo_loss(two, two, beta=-1)
    with pytest.raises(ValueError, match="rejected_B: shape"):
        losses.direct_preference_loss(
            two, one, chosen_reference_B=two, rejected_reference_B=two
        )
    with pytest.raises(ValueError, match="retain_weight=-1: must be 0 or positive"):
        losses.gradient_difference(two, two, retain_weight=-1)
