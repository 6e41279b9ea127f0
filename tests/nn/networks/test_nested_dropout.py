"""Nested dropout: the drawn k against its distribution, and every k at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import NestedDropout, truncation_sweep

X = jnp.array(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
N_DRAWS = 4000


def kept(y):
    """Check that a prefix is kept, of all rows alike; return its length."""
    lengths = np.count_nonzero(y, axis=-1)
    assert np.ptp(lengths) == 0
    k = int(lengths[0])
    np.testing.assert_array_equal(y, np.where(np.arange(6) < k, X, 0))
    return k


@pytest.mark.parametrize("sigma, mu", [(2.0, 0.0), (1.0, 4.0), (np.inf, 0.0)])
def test_k_is_drawn_from_the_truncated_gaussian(sigma, mu):
    module = NestedDropout(sigma=sigma, mu=mu)
    draw = jax.jit(jax.vmap(lambda key: module.apply({}, X, rngs={"dropout": key})))
    drawn = draw(jax.random.split(jax.random.key(0), N_DRAWS))
    kept(drawn[0])
    ks = np.count_nonzero(drawn[:, 0], axis=-1)
    p = np.exp(-(((np.arange(1, 7) - mu) / sigma) ** 2))
    p /= p.sum()
    found = np.bincount(ks, minlength=7)[1:] / N_DRAWS
    np.testing.assert_allclose(found, p, atol=4 * 0.5 / N_DRAWS**0.5)


def test_a_given_k_needs_no_key_and_may_be_traced():
    module = NestedDropout(sigma=1.0)
    broken = X.at[:, 5].set(jnp.inf)
    apply = jax.jit(lambda x, k: module.apply({}, x, k=k))
    for k in (0, 1, 5):
        assert kept(apply(broken, k)) == k
    np.testing.assert_array_equal(apply(X, 6), X)
    half = module.apply({}, X.astype(jnp.bfloat16), k=3)
    assert half.dtype == jnp.bfloat16
    gradient = jax.jit(jax.grad(lambda x: module.apply({}, x, k=2).sum()))(broken)
    np.testing.assert_array_equal(gradient[0], [1, 1, 0, 0, 0, 0])


def test_the_sweep_has_the_logits_of_every_k():
    kernel = jnp.array(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)
    found = jax.jit(truncation_sweep)(X, kernel)
    assert found.shape == (6, 4, 3)
    for k in range(1, 7):
        expected = np.asarray(X, float)[:, :k] @ np.asarray(kernel, float)[:k]
        np.testing.assert_allclose(found[k - 1], expected, rtol=1e-5, atol=1e-6)


def test_numbers_outside_their_range_are_refused():
    for sigma in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=f"sigma={sigma}: must be positive"):
            NestedDropout(sigma=sigma).apply({}, X, k=1)
    for k in (-1, 7):
        with pytest.raises(ValueError, match=rf"k={k}: must lie in \[0, 6\]"):
            NestedDropout(sigma=1.0).apply({}, X, k=k)
