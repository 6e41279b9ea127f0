"""Output variance of factored layers at the start, measured where it matters.

The rank-r part keeps some of W0's variance, gamma takes its share and the activation
most of the rest: at width 256, rank 64 and gamma .7 the output of LOST has about .08 of
the variance of x W0. The output is linear in `b` and the kept values, so one scalar on
both restores it exactly; what the activation does has no closed form and is measured.
"""

import jax
import jax.numpy as jnp

from lostjax.nn.initializers.replication import replicated
from lostjax.nn.kernels.bottleneck import BottleneckWeights, bottleneck_products
from lostjax.typing import Activation, Array, Float, Key

_ROWS = 1024


def matching_scale(
    key: Key,
    dense_MN: Float[Array, "M N"],
    *,
    weights: BottleneckWeights,
    activation: Activation | None,
) -> Float[Array, ""]:
    """Measure by how much `b` and the kept values have to grow to match W0.

    Args:
        key: draws the sample of unit Gaussian rows.
        dense_MN: W0, whose output variance is the measure.
        weights: the layer's starting weights.
        activation: what stands between its factors; None for nothing.

    Returns:
        The square root of the ratio of variances, over rows and outputs together.
    """
    x_PM = replicated(jax.random.normal(key, (_ROWS, dense_MN.shape[0])))
    dense_MN, weights = jax.tree.map(replicated, (dense_MN, weights))
    y_PN = bottleneck_products(x_PM, [weights], activation=activation)[0]
    ratio = jnp.var(replicated(x_PM @ dense_MN)) / jnp.var(replicated(y_PN))
    scale: jax.Array = replicated(jnp.sqrt(ratio))
    return scale
