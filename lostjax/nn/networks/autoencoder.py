"""A small convolutional variational autoencoder, for experiments that take minutes.

    h            = dense(relu(conv(... relu(conv(x)))))         kernels 4 x 4, stride 2
    mu, log v    = W_1 h, W_2 h                                 q(z | x) = N(mu, v)
    z            = mu + sqrt(v) e,   e ~ N(0, 1)
    logits of x  = conv^T(... relu(conv^T(relu(dense(z)))))

Each layer of the encoder halves height and width, each of the decoder doubles them.
Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114. The loss is
a reconstruction error plus `losses.standard_normal_divergence`, which is multiplied by
beta in Higgins et al., "beta-VAE", 2017.

Cost for each image: 32 M N FLOPs a position of a layer's smaller side, forward.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float


class Posterior(NamedTuple):
    """Means and log variances of latent variables, Z of them for each example."""

    mean_BZ: Float[Array, "... Z"]
    log_variance_BZ: Float[Array, "... Z"]


class VariationalAutoencoder(nn.Module):
    """Strided convolutions to latent variables, and back to an image.

    Attributes:
        shape: height, width and channels of an image; height and width are divisible by
            2 once for each of the widths.
        latents: number Z of latent variables.
        widths: channels of the encoder's layers; the decoder's are the same, reversed.
        hidden: units of the dense layer on either side of the latent variables.
    """

    shape: tuple[int, int, int]
    latents: int
    widths: Sequence[int] = (16, 32)
    hidden: int = 128

    def setup(self) -> None:
        """Create the layers."""
        height, width, channels = self.shape
        scale = 2 ** len(self.widths)
        if not self.widths or height % scale or width % scale:
            raise ValueError(
                f"shape={self.shape}: height and width must be divisible by {scale}, "
                f"2 for each of widths={tuple(self.widths)}, at least one"
            )
        start = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        self._down = [
            nn.Conv(n, (4, 4), strides=(2, 2), kernel_init=start) for n in self.widths
        ]
        self._squeeze = nn.Dense(self.hidden, kernel_init=start)
        self._posterior = nn.Dense(2 * self.latents)
        self._smallest = (height // scale, width // scale, self.widths[-1])
        self._stretch = nn.Dense(self.hidden, kernel_init=start)
        self._spread = nn.Dense(math.prod(self._smallest), kernel_init=start)
        self._up = [
            nn.ConvTranspose(n, (4, 4), strides=(2, 2), kernel_init=start)
            for n in [*reversed(self.widths[:-1]), channels]
        ]

    def encode(self, x: Float[Array, "... H W C"]) -> Posterior:
        """Map images (..., H, W, C) to the distribution of their latent variables."""
        for layer in self._down:
            x = nn.relu(layer(x))
        rows = nn.relu(self._squeeze(x.reshape(*x.shape[:-3], -1)))
        return Posterior(*jnp.split(self._posterior(rows), 2, axis=-1))

    def decode(self, z: Float[Array, "... Z"]) -> Float[Array, "... H W C"]:
        """Map latent variables (..., Z) to logits of pixels (..., H, W, C)."""
        rows = nn.relu(self._spread(nn.relu(self._stretch(z))))
        x = rows.reshape(*z.shape[:-1], *self._smallest)
        for number, layer in enumerate(self._up):
            x = layer(nn.relu(x) if number else x)
        return x

    def __call__(
        self, x: Float[Array, "... H W C"]
    ) -> tuple[Float[Array, "... H W C"], Posterior]:
        """Reconstruct images from samples, drawn with the key "latents".

        Returns:
            Logits of the pixels (..., H, W, C), and the distribution of the latent
            variables.
        """
        posterior = self.encode(x)
        mean, log_variance = posterior
        noise = jax.random.normal(self.make_rng("latents"), mean.shape, mean.dtype)
        return self.decode(mean + jnp.exp(log_variance / 2) * noise), posterior
