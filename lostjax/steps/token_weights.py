"""Factors of a batch's tokens by how much a reference model is surprised at them.

    factors_BT = surprisal_weights(reference, targets)       with mean 1 over each row

The reference is another model of the same tokens. It sees the rows as they are packed,
at the same positions. A row is one sequence even if it holds several documents: within
it, a document of more surprising tokens counts more. See `losses.token_weights` for
equation and paper.

Cost: one forward pass of the reference, one micro-batch at a time.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from lostjax.losses import surprisal_weights_of_losses
from lostjax.steps.gradient import map_micro_batches
from lostjax.steps.objective import final_states, token_losses
from lostjax.typing import Array, Batch, Float, Variables

WeighTokens = Callable[[Variables, Batch], Batch]
"""(reference's variables, batch) -> the batch with factors of its tokens; pure."""


def make_token_weighting(
    reference: nn.Module,
    *,
    alpha: float = 1.0,
    min_weight: float = 0.0,
    accumulate: int = 1,
    shards: int = 1,
) -> WeighTokens:
    """Build a pure function (variables, batch) -> batch with factors of its tokens.

    Args:
      reference: an `nn.Transformer` over the vocabulary of the batch's tokens.
      alpha: exponent >= 0 of 1 - p; 0 for factors of 1.
      min_weight: lower bound in [0, 1] of (1 - p)^alpha.
      accumulate: number of micro-batches; must divide the batch.
      shards: number of contiguous parts of the batch's rows on different devices.

    Returns:
      The function. Factors of a batch that has some are replaced.
    """

    def weigh(variables: Variables, batch: Batch) -> Batch:
        def score(part: Batch) -> tuple[None, Float[Array, "B T"]]:
            losses_BT = token_losses(
                reference,
                variables["params"]["head"],
                final_states(reference, variables, part),
                targets_BT=part.targets_BT,
                shards=shards,
            )
            return None, surprisal_weights_of_losses(
                losses_BT,
                alpha=alpha,
                min_weight=min_weight,
                weights=part.weights_BT,
            )

        plain = batch._replace(factors_BT=None)
        factors_BT: jax.Array = map_micro_batches(score, plain, accumulate)[1]
        return plain._replace(factors_BT=factors_BT)

    return weigh
