"""A small class-conditional diffusion model, for experiments that take minutes.

A noisy image of an image x in [-1, 1] has a signal s, x's share of its variance:

    z_s   = sqrt(s) x + sqrt(1 - s) e,             e ~ N(0, 1)
    loss  = |x - net(z_s, s, c)|^2                 at random s and e
    e^    = (z_s - sqrt(s) x^) / sqrt(1 - s)       what an answer x^ says the noise is
    z_r   = sqrt(r) x^ + sqrt(1 - r) e^            a step of sampling, to r > s

Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, whose
product of 1 - beta is s; the cosine schedule is that of Nichol & Dhariwal, 2021,
arXiv:2102.09672, without its offset; the sampler is the deterministic one of Song et
al., "Denoising Diffusion Implicit Models", 2020, arXiv:2010.02502. The network finds
the image, not the noise, as in Salimans & Ho, "Progressive Distillation for Fast
Sampling of Diffusion Models", 2022, arXiv:2202.00512: noise of M pixels does not pass
through W < M units.

The network is a residual perceptron. Signal and class scale and shift what enters each
block, as in Peebles & Xie, "Scalable Diffusion Models with Transformers", 2022,
arXiv:2212.09748.

Cost for each image: 4 W (M + 2 W depth) FLOPs, forward, for depth blocks.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, Int

FASTEST = 256.0
"""Of the angles that an angle of noise is given as, as a multiple of it."""

Denoise = Callable[
    [Float[Array, "*batch M"], Float[Array, "*batch"], Int[Array, "*batch"]],
    Float[Array, "*batch M"],
]
"""From noisy images, their signals and classes to images."""


class Denoiser(nn.Module):
    """A residual perceptron that finds the image in a noisy one of a known class.

    Attributes:
        n_classes: number of classes.
        width: units W of the residual stream and of each block.
        depth: number of blocks.
        frequencies: half the numbers that a signal is given as.
    """

    n_classes: int
    width: int = 384
    depth: int = 2
    frequencies: int = 16

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "*batch M"],
        signal: Float[Array, "*batch"],
        label: Int[Array, "*batch"],
    ) -> Float[Array, "*batch M"]:
        """Find the images.

        Args:
            noisy: flattened noisy images (..., M), see `add_noise`.
            signal: s of each, in [0, 1], shape (...).
            label: classes in [0, n_classes), shape (...).

        Returns:
            Estimated images of the same shape.

        Raises:
            ValueError: a size that is not positive.
        """
        if min(self.n_classes, self.width, self.depth, self.frequencies) < 1:
            raise ValueError(
                f"n_classes={self.n_classes}, width={self.width}, depth={self.depth}, "
                f"frequencies={self.frequencies}: must be positive"
            )
        known = nn.Dense(self.width, name="signal")(_turn(signal, self.frequencies))
        known = nn.silu(
            known + nn.Embed(self.n_classes, self.width, name="label")(label)
        )
        x = nn.Dense(self.width, name="enter")(noisy)
        for index in range(self.depth):
            moved = nn.Dense(2 * self.width, name=f"condition_{index}")(known)
            scale, shift = jnp.split(moved, 2, axis=-1)
            normal = nn.LayerNorm(use_bias=False, use_scale=False)(x)
            inner = nn.Dense(self.width, name=f"up_{index}")(
                normal * (1 + scale) + shift
            )
            x = x + nn.Dense(self.width, name=f"down_{index}")(nn.silu(inner))
        x = nn.LayerNorm(name="norm")(x)
        # Zeros: a new network answers every image with a grey one.
        leave = nn.Dense(
            noisy.shape[-1], kernel_init=nn.initializers.zeros, name="leave"
        )
        return jnp.asarray(leave(x))


def cosine_signals(n_steps: int, *, most: float = 0.99) -> Float[Array, "N"]:
    """List the signals of evenly spaced angles, falling.

    Args:
        n_steps: how many, N, at least 1.
        most: the first signal, in (0, 1).

    Returns:
        N signals s = cos(angle)^2, from `most` to that one step before none is left.

    Raises:
        ValueError: a value out of range.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}: must be at least 1")
    if not 0 < most < 1:
        raise ValueError(f"most={most}: must lie in (0, 1)")
    angles_N = jnp.linspace(math.acos(math.sqrt(most)), math.pi / 2, n_steps + 1)[:-1]
    return jnp.square(jnp.cos(angles_N))


def add_noise(
    images: Float[Array, "*batch M"],
    noise: Float[Array, "*batch M"],
    *,
    signal: Float[Array, "*batch"],
) -> Float[Array, "*batch M"]:
    """Mix images with noise.

    Args:
        images: values in [-1, 1], shape (..., M).
        noise: standard normal, of the same shape.
        signal: s of each, in [0, 1], shape (...).

    Returns:
        Noisy images of the same shape.
    """
    return (
        jnp.sqrt(signal)[..., None] * images + jnp.sqrt(1 - signal)[..., None] * noise
    )


def find_noise(
    noisy: Float[Array, "*batch M"],
    images: Float[Array, "*batch M"],
    *,
    signal: Float[Array, "*batch"],
) -> Float[Array, "*batch M"]:
    """Compute the noise that `add_noise` mixed with images.

    Args:
        noisy: noisy images (..., M).
        images: the images in them, of the same shape.
        signal: s of each, in [0, 1), shape (...).

    Returns:
        Noise of the same shape.
    """
    rest = noisy - jnp.sqrt(signal)[..., None] * images
    return rest / jnp.sqrt(1 - signal)[..., None]


def draw_images(
    denoise: Denoise,
    noise: Float[Array, "*batch M"],
    *,
    label: Int[Array, "*batch"],
    signals_N: Float[Array, "N"],
) -> Float[Array, "*batch M"]:
    """Turn noise to images, without further chance.

    Args:
        denoise: a trained network, such as `partial(denoiser.apply, variables)`.
        noise: standard normal, shape (..., M).
        label: classes of the images to draw, shape (...).
        signals_N: falling signals to pass through from the last to the first, each a
            call of the network; see `cosine_signals`.

    Returns:
        Images with values in [-1, 1], of the noise's shape.
    """

    def find_image(noisy: jax.Array, signal: jax.Array) -> jax.Array:
        signals = jnp.broadcast_to(signal, label.shape)
        return jnp.clip(denoise(noisy, signals, label), -1.0, 1.0)

    def step(
        noisy: jax.Array, pair: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        signal, after = (jnp.broadcast_to(each, label.shape) for each in pair)
        image = find_image(noisy, pair[0])
        rest = find_noise(noisy, image, signal=signal)
        return add_noise(image, rest, signal=after), None

    rising_N = signals_N[::-1]
    noisy = jax.lax.scan(step, noise, (rising_N[:-1], rising_N[1:]))[0]
    return find_image(noisy, rising_N[-1])


def _turn(signal: jax.Array, frequencies: int) -> jax.Array:
    """Give a signal as sines and cosines of multiples of its angle."""
    # The slope of arccos is infinite at 0 and 1: no gradient is taken by signals.
    angle = jnp.arccos(jnp.sqrt(jnp.clip(signal, 0.0, 1.0)))
    angles = angle[..., None] * jnp.geomspace(1.0, FASTEST, frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
