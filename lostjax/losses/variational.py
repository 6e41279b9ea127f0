"""How far an encoder's Gaussian is from the prior of a variational autoencoder.

    KL(N(mu, v) || N(0, 1)) = 1/2 sum_z (mu_z^2 + v_z - 1 - log v_z)

Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix B.
The loss of a variational autoencoder is a reconstruction error plus beta of it. Cost:
one pass.
"""

import jax.numpy as jnp

from lostjax.typing import Array, Float


def standard_normal_divergence(
    mean_BZ: Float[Array, "*batch Z"], log_variance_BZ: Float[Array, "*batch Z"]
) -> Float[Array, "*batch"]:
    """Compute the Kullback-Leibler divergence of independent Gaussians to N(0, 1).

    Args:
      mean_BZ: means (..., Z).
      log_variance_BZ: logarithms of the variances (..., Z).

    Returns:
      Nats (...), float32, summed over the Z variables, at least 0.
    """
    mean_BZ = mean_BZ.astype(jnp.float32)
    log_BZ = log_variance_BZ.astype(jnp.float32)
    # expm1 keeps the digits of variances close to 1, which is where most end up.
    return 0.5 * jnp.sum(jnp.square(mean_BZ) + jnp.expm1(log_BZ) - log_BZ, axis=-1)
