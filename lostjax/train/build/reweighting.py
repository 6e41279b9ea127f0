"""From the configuration to the factors that rows of a batch count by.

    factor_i = w_i / (n_i / sum_j n_j),      w from `losses.sample_weights`

with n_i the tokens of row i, which are also the weights' prior: at infinite temperature
every factor is 1 and the step is the plain one. A row is one example, even where it
holds several short documents: the weighing knows the row's mean loss.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from lostjax.steps.gradient import Reweighting
from lostjax import losses
from lostjax.train.config.schema import ReweightConfig
from lostjax.typing import Array, Float, Int

SHAPES: dict[str, losses.Shape] = {
    "lin_upper": losses.lin_upper,
    "quadratic": losses.quadratic,
    "extremes": losses.extremes,
    "upper": losses.upper,
}




def build_reweighting(config: ReweightConfig, *, steps: int) -> Reweighting | None:
    """Build what a configuration asks for; None where all rows count alike.

    Args:
      config: already checked.
      steps: of the whole run, for the uniform warm-up.
    """
    if config.name == "none":
        return None
    shape = SHAPES[config.name]
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
        weights_B = losses.sample_weights(
            losses.sequence_means(values_BT, weights_BT),
            shape=shape,
            temperature=temperature(step),
            prior_B=tokens_B,
        )
        share_B = tokens_B / jnp.maximum(jnp.sum(tokens_B), 1e-9)
        return weights_B / jnp.where(share_B == 0, 1.0, share_B)

    return factors
