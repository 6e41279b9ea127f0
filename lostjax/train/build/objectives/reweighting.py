"""Build the factors by which the rows of a batch are weighted.

    factor_i = w_i / (n_i / sum_j n_j)

w is from `losses.sample_weights`, or from `losses.kl_dro_weights` for `kl_dro`.

n_i is the number of tokens in row i and also the prior of the weights: at infinite
temperature every factor is 1, and the step equals the plain one. A row is one example
even if it holds several short documents, because the weight depends on the row's mean
loss.
"""

import math
from functools import partial

import jax.numpy as jnp

from lostjax import losses
from lostjax.steps.objective import Reweighting
from lostjax.train.config.schema import ReweightConfig
from lostjax.typing import Array, Float, Int

SHAPES: dict[str, losses.Shape] = {
    "lin_upper": losses.lin_upper,
    "quadratic": losses.quadratic,
    "extremes": losses.extremes,
    "upper": losses.upper,
}


def build_reweighting(config: ReweightConfig, *, steps: int) -> Reweighting | None:
    """Build the function that computes the factors of a batch's rows.

    Args:
      config: already checked.
      steps: steps that the run was begun with; the warm-up is a share of them.

    Returns:
      (values_BT, weights_BT, step) -> factors (B,); None without reweighting.
    """
    if config.name == "none":
        return None
    weigh = (
        losses.kl_dro_weights
        if config.name == "kl_dro"
        else partial(losses.sample_weights, shape=SHAPES[config.name])
    )
    temperature = losses.temperature_schedule(
        config.temperature,
        uniform_steps=math.ceil(config.warmup * steps),
    )

    def factors(
        values_BT: Float[Array, "B T"],
        weights_BT: Float[Array, "B T"],
        step: Int[Array, ""],
    ) -> Float[Array, "B"]:
        tokens_B = jnp.sum(weights_BT, axis=1)
        weights_B = weigh(
            losses.sequence_means(values_BT, weights_BT),
            temperature=temperature(step),
            prior_B=tokens_B,
        )
        share_B = tokens_B / jnp.maximum(jnp.sum(tokens_B), 1e-9)
        # A row without tokens has share 0: dividing by 1 keeps NaN out of its factor.
        return weights_B / jnp.where(share_B == 0, 1.0, share_B)

    return factors
