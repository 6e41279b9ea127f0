"""Root-mean-square normalisation with a learnt scale.

    y = x / sqrt(mean(x^2) + eps) * scale

Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, arXiv 1910.07467. Unlike
layer normalisation it subtracts no mean and adds no bias. The computation is always in
float32, because the square of a bfloat16 number keeps only two digits.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.typing import Array, Float


class RMSNorm(nn.Module):
    """Normalise the last axis to unit mean square and multiply by `scale`.

    Attributes:
        eps: constant added to the mean square, > 0.
        dtype: dtype of the result; the computation is in float32.
    """

    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalise x over its last axis.

        Args:
            x: array (..., D) of any float dtype.

        Returns:
            The normalised array (..., D), of dtype `self.dtype`.
        """
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        # Squares of bfloat16 keep two digits: compute in float32, cast at the end.
        x = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(variance + self.eps) * scale_D).astype(self.dtype)
