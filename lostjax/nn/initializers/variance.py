"""Variance correction of factored layers at initialisation.

The rank-r part retains some of the variance of W0; gamma and the activation reduce most
of the rest. At width 256, rank 64 and gamma .7, the output of LOST has about .08 of the
variance of x W0. The output is linear in `b` and the kept values, so that scaling both
by one factor restores the variance exactly. The effect of the activation has no closed
form, so it is measured on a random sample.
"""

import jax
import jax.numpy as jnp

from lostjax.nn.initializers.replication import replicated
from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.typing import Activation, Array, Float, Key

_ROWS = 1024  # of the random sample


def matching_scale(
    key: Key,
    dense_MN: Float[Array, "M N"],
    *,
    weights: BottleneckWeights,
    activation: Activation | None,
) -> Float[Array, ""]:
    """Measure the factor of `b` and the kept values that restores the variance of W0.

    Args:
        key: random key of the sample of unit Gaussian rows.
        dense_MN: W0 (M, N), whose output variance is the target.
        weights: initial weights of the layer.
        activation: activation between the factors; None for the identity.

    Returns:
        The square root of the ratio of output variances, taken over rows and outputs
        together; a scalar.
    """
    x_PM = replicated(jax.random.normal(key, (_ROWS, dense_MN.shape[0])))
    # Replicated, so that a sharded sum cannot change the bits of the weights.
    dense_MN, weights = jax.tree.map(replicated, (dense_MN, weights))
    y_PN = bottleneck_products(x_PM, [weights], activation=activation)[0]
    target, own = jnp.var(replicated(x_PM @ dense_MN)), jnp.var(replicated(y_PN))
    _require_outputs(own)
    scale: jax.Array = replicated(jnp.sqrt(target / own))
    return scale


def _require_outputs(variance: jax.Array) -> None:
    """Refuse a layer whose outputs are all 0, if the variance is known already."""
    # 0 / 0 would make NaN parameters. Inside a compiled `init` no value is known.
    if not isinstance(variance, jax.core.Tracer) and variance == 0:
        raise ValueError(
            "correct_variance=True: the initial outputs are all 0, and no scale can "
            "restore their variance; use a kernel_init that is not zero"
        )
