"""The variational autoencoder: its shapes, its samples, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import VariationalAutoencoder

SHAPE = (8, 12, 1)


def make():
    model = VariationalAutoencoder(SHAPE, latents=3, widths=(4, 6), hidden=5)
    keys = {"params": jax.random.key(0), "latents": jax.random.key(1)}
    x_BHWC = jax.random.uniform(jax.random.key(2), (2, *SHAPE))
    return model, model.init(keys, x_BHWC), x_BHWC


def test_an_image_goes_to_latents_and_back():
    model, variables, x_BHWC = make()
    logits, (mean, log_variance) = model.apply(
        variables, x_BHWC, rngs={"latents": jax.random.key(3)}
    )
    assert logits.shape == x_BHWC.shape
    assert mean.shape == log_variance.shape == (2, 3)
    encoded = model.apply(variables, x_BHWC, method="encode")
    np.testing.assert_array_equal(encoded.mean_BZ, mean)
    single = model.apply(variables, x_BHWC[0], method="encode")
    np.testing.assert_allclose(single.mean_BZ, mean[0], rtol=1e-5)


def test_what_is_decoded_is_the_mean_and_noise_of_its_variance():
    model, variables, x_BHWC = make()
    key = jax.random.key(3)
    logits, (mean, log_variance) = model.apply(variables, x_BHWC, rngs={"latents": key})

    noise = jax.random.normal(
        model.apply(variables, rngs={"latents": key}, method=draw_key), mean.shape
    )

    def decode(deviation):
        return model.apply(variables, mean + deviation * noise, method="decode")

    np.testing.assert_allclose(decode(jnp.exp(log_variance / 2)), logits, rtol=1e-5)
    assert jnp.abs(decode(jnp.exp(log_variance)) - logits).max() > 1e-3


def draw_key(model):
    """Draw flax's own first key, as a call does."""
    return model.make_rng("latents")


@pytest.mark.parametrize("shape", [(8, 10, 1), (6, 8, 1)])
def test_an_image_that_cannot_be_halved_is_refused(shape):
    model = VariationalAutoencoder(shape, latents=2)
    with pytest.raises(ValueError, match="must be divisible by 4"):
        model.init(jax.random.key(0), jnp.zeros((1, *shape)))
