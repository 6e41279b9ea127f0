"""The denoiser: shapes, what it is told, noise both ways, and exact sampling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import nn

M = 6


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def make():
    net = nn.Denoiser(3, width=5, depth=2, frequencies=4)
    noisy = draw(0, 2, M)
    variables = net.init(
        jax.random.key(1), noisy, jnp.array([0.3, 0.8]), jnp.array([0, 2])
    )
    # Its last layer starts at zeros, and says nothing.
    variables["params"]["leave"]["kernel"] = draw(2, 5, M)
    return net, variables, noisy


def test_an_answer_depends_on_image_signal_and_class():
    net, variables, noisy = make()
    apply = jax.jit(net.apply)
    signal, label = jnp.array([0.3, 0.8]), jnp.array([0, 2])
    plain = apply(variables, noisy, signal, label)
    assert plain.shape == noisy.shape
    for changed in (
        apply(variables, noisy + 0.1 * draw(3, 2, M), signal, label),
        apply(variables, noisy, jnp.array([0.4, 0.7]), label),
        apply(variables, noisy, signal, jnp.array([1, 1])),
    ):
        assert (jnp.abs(changed - plain).max(axis=-1) > 1e-3).all()
    single = net.apply(variables, noisy[0], signal[0], label[0])
    np.testing.assert_allclose(single, plain[0], rtol=2e-5, atol=1e-5)


def test_noise_has_its_share_of_the_variance_and_is_found_again():
    images, noise = jnp.sign(draw(0, 4, 500)), draw(1, 4, 500)
    signal = jnp.array([0.0, 0.3, 0.8, 1.0])
    noisy = nn.add_noise(images, noise, signal=signal)
    np.testing.assert_allclose(noisy.var(axis=-1), 1.0, atol=0.2)
    np.testing.assert_array_equal(noisy[0], noise[0])
    np.testing.assert_array_equal(noisy[3], images[3])
    shared = np.mean(noisy * images, axis=-1)
    np.testing.assert_allclose(shared, jnp.sqrt(signal), atol=0.1)
    found = nn.find_noise(noisy[:3], images[:3], signal=signal[:3])
    np.testing.assert_allclose(found, noise[:3], atol=1e-5)


def test_signals_fall_from_the_most_by_equal_angles():
    signals_N = nn.cosine_signals(9, most=0.9)
    assert signals_N[0] == pytest.approx(0.9)
    angles = np.arccos(np.sqrt(np.asarray([*signals_N, 0.0])))
    np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-3)


def test_a_network_that_knows_the_image_draws_it():
    images = jnp.clip(draw(0, 3, M), -1, 1)
    label = jnp.array([2, 0, 1])
    drawn = nn.draw_images(
        lambda noisy, signal, label: images[label],
        draw(1, 3, M),
        label=label,
        signals_N=nn.cosine_signals(4),
    )
    np.testing.assert_array_equal(drawn, images[label])


def test_a_normal_world_is_drawn_as_it_is():
    # Images are N(m, v): the best answer is known, and the flow keeps quantiles.
    mean, variance = 0.2, 0.01

    def denoise(noisy, signal, label):
        s = signal[..., None]
        gain = jnp.sqrt(s) * variance / (s * variance + 1 - s)
        return mean + gain * (noisy - jnp.sqrt(s) * mean)

    noise, label = draw(0, 50, 1), jnp.zeros(50, jnp.int32)
    # The last answer is the mean given an image that still holds a little noise.
    signal = 0.999
    spread = signal**0.5 * variance / (signal * variance + 1 - signal) ** 0.5

    @partial(jax.jit, static_argnums=0)
    def miss(n_steps):
        signals_N = nn.cosine_signals(n_steps, most=signal)
        drawn = nn.draw_images(denoise, noise, label=label, signals_N=signals_N)
        return jnp.abs((drawn - mean) / spread - noise).max()

    coarse, fine = miss(50), miss(800)
    assert fine < 0.01 * jnp.abs(noise).max()
    assert fine < coarse / 8


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: nn.cosine_signals(0), "n_steps=0"),
        (lambda: nn.cosine_signals(3, most=1.0), "most=1.0"),
        (
            lambda: nn.Denoiser(0).init(
                jax.random.key(0), jnp.zeros((1, M)), jnp.zeros(1), jnp.zeros(1, int)
            ),
            "n_classes=0",
        ),
    ],
)
def test_what_cannot_be_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
