"""Root-mean-square normalisation, with a learnt scale and neither mean nor bias.

    y = x / sqrt(mean(x^2) + eps) * scale

Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, arXiv 1910.07467. Always
computed in float32: the square of a bfloat16 keeps two digits.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.typing import Array, Float


class RMSNorm(nn.Module):
    """Bring the last axis to unit mean square, then scale it by a learnt `scale`."""

    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalise x over its last axis; the result has this module's dtype."""
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(variance + self.eps) * scale_D).astype(self.dtype)
