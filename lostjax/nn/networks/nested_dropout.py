"""Nested dropout: keep the first k features, so that features are sorted by use.

    p(k) is proportional to exp(-((k - mu) / sigma)^2)             k = 1 .. D
    y_i  = x_i for i <= k, and 0 for i > k

One k is drawn for a whole batch and nothing is rescaled. A feature is trained only if
all before it are kept, so the first ones learn what matters most; a classifier on few
of them cannot fit noisy labels by heart. Rippel et al., "Learning Ordered
Representations with Nested Dropout", 2014, arXiv:1402.0915; Chen et al., "Compressing
Features for Learning with Noisy Labels", 2022, arXiv:2206.13140, with a Gaussian p(k)
as above and mu = 0. After training, the best k is sought on clean validation data.

`truncation_sweep` computes the logits of every k at once, as a cumulative sum over the
features of x_i W_i, where a loop over k would multiply by the classifier D times.

Cost: nothing of note; the sweep D B N numbers at once.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lostjax.checks import require_positive
from lostjax.typing import Array, Float, Int, Scalar


class NestedDropout(nn.Module):
    """Keep the first k features of the last axis; k is drawn anew for each batch.

    Attributes:
        sigma: width of the distribution of k, > 0, in features; infinity for uniform. A
            traced one is not checked.
        mu: its centre, in features.
    """

    sigma: Scalar
    mu: Scalar = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "*rows D"], *, k: int | Int[Array, ""] | None = None
    ) -> Float[Array, "*rows D"]:
        """Zero all features after the k-th.

        Args:
            x: features (..., D) of any float dtype.
            k: number of features to keep, in [0, D], may be traced; D for all of them,
                as in an evaluation. None to draw it with the key "dropout".

        Returns:
            Features (..., D) of the same dtype.

        Raises:
            ValueError: sigma is not positive, or k lies outside its range.
        """
        width = x.shape[-1]
        logits_D = _truncation_logits(width, sigma=self.sigma, mu=self.mu)
        if k is None:
            k = 1 + jax.random.categorical(self.make_rng("dropout"), logits_D)
        elif not isinstance(k, jax.core.Tracer) and not 0 <= k <= width:
            raise ValueError(f"k={k}: must lie in [0, {width}], the features")
        # Select: a feature that is dropped does not matter, even if it is infinite.
        return jnp.where(jnp.arange(width) < k, x, 0)


def truncation_sweep(
    features_BD: Float[Array, "B D"], kernel_DN: Float[Array, "D N"]
) -> Float[Array, "D B N"]:
    """Compute the logits of a linear classifier on the first k features, for every k.

    Args:
        features_BD: features (B, D); computed in float32.
        kernel_DN: kernel of a classifier without bias (D, N).

    Returns:
        Logits (D, B, N), float32; entry k - 1 is of the first k features. Add a bias to
        all of them if there is one.
    """
    products_DBN = jnp.einsum(
        "bd,dn->dbn",
        features_BD.astype(jnp.float32),
        kernel_DN.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.cumsum(products_DBN, axis=0)


def _truncation_logits(width: int, *, sigma: Scalar, mu: Scalar) -> jax.Array:
    """Return log p(k) for k = 1 .. width, up to a constant."""
    require_positive("sigma", sigma)
    distance_D = (jnp.arange(1, width + 1) - mu) / sigma
    return -jnp.square(distance_D)
