"""The divergence of Gaussians to the prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from lostjax import losses


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (1.5, 0.1), (-0.3, 4.0)])
def test_it_is_the_integral(mean, variance):
    mine, prior = stats.norm(mean, np.sqrt(variance)), stats.norm()
    truth, _ = integrate.quad(
        lambda x: mine.pdf(x) * (mine.logpdf(x) - prior.logpdf(x)), -12, 12
    )
    got = losses.standard_normal_divergence(
        jnp.array([mean]), jnp.log(jnp.array([variance]))
    )
    np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-9)


def test_variables_add_up_and_batches_do_not():
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    got = losses.standard_normal_divergence(jnp.array(mean), jnp.array(log_variance))
    one = losses.standard_normal_divergence(
        jnp.array(mean[..., None]), jnp.array(log_variance[..., None])
    )
    assert got.shape == (3, 4)
    np.testing.assert_allclose(got, one.sum(-1), rtol=1e-6)


def test_a_variance_next_to_one_keeps_its_digits():
    log_variance = jnp.array([1e-5])
    got = losses.standard_normal_divergence(jnp.zeros(1), log_variance)
    assert 0 <= got <= 5e-11  # 1/4 x^2; plain exp(x) - 1 - x is off by 1e-8
    half = losses.standard_normal_divergence(
        jnp.zeros(2, jnp.bfloat16), jnp.zeros(2, jnp.bfloat16)
    )
    assert half.dtype == jnp.float32 and half == 0
    gradient = jax.grad(losses.standard_normal_divergence, argnums=1)
    np.testing.assert_allclose(
        gradient(jnp.zeros(1), 100 * log_variance), [5e-4], rtol=1e-3
    )
