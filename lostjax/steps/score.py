"""Score a batch by more than its loss: how often the model is right, and how sure.

    nats, tokens      summed cross entropy, and the number of predicted tokens
    first, top_k      tokens whose target is the likeliest, or among the k likeliest
    gaps              per bin of confidence: sum of (right - confidence)

All are sums, so that batches add up to a text. `lostjax.metrics.probabilities` has the
definitions and their sources.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lostjax.losses import next_token_loss, weighted_sums
from lostjax.metrics.probabilities import (
    calibration_gaps,
    is_among_largest,
    rank_labels,
)
from lostjax.steps.head import sum_over_positions
from lostjax.steps.objective import final_states, unembed
from lostjax.typing import Batch, PyTree, Variables

N_BINS = 15
"""Bins of confidence, of equal width."""


class Sums(NamedTuple):
    """Sums over the tokens of a batch or a text; see the module."""

    nats: Any
    tokens: Any
    first: Any
    top_k: Any
    gaps: Any
    """One for each of `N_BINS`."""


ScoreStep = Callable[[Variables, Batch], Sums]


PassageStep = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


def make_passage_step(model: nn.Module) -> PassageStep:
    """Build score(variables, batch) -> (nats_B, tokens_B), one number for each row.

    Args:
      model: see `make_gradient`.

    Returns:
      The step; pure, to be jitted by the caller. Its results are float32.
    """

    def score(
        head: PyTree, states_BTD: jax.Array, rows: Any
    ) -> tuple[jax.Array, tuple[None, jax.Array]]:
        targets_BT, weights_BT = rows
        values_BT = next_token_loss(unembed(model, head, states_BTD), targets_BT)
        # Where, not a product: a model that diverged has NaN in padding too.
        values_BT = jnp.where(weights_BT > 0, values_BT, 0.0)
        return jnp.sum(values_BT), (None, values_BT)

    def step(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        _, (_, values_BT) = sum_over_positions(
            score,
            variables["params"]["head"],
            final_states(model, variables, batch),
            (batch.targets_BT, batch.weights_BT),
        )
        return jnp.sum(values_BT, axis=1), jnp.sum(batch.weights_BT > 0, axis=1)

    return step


def make_score_step(model: nn.Module, *, top_k: int) -> ScoreStep:
    """Build score(variables, batch) -> sums.

    Args:
      model: see `make_gradient`.
      top_k: k of the top-k accuracy, from 1 to V.

    Returns:
      The step; pure, to be jitted by the caller. Its results are float32.
    """

    def score(
        head: PyTree, states_BTD: jax.Array, rows: Any
    ) -> tuple[jax.Array, tuple[PyTree, None]]:
        targets_BT, weights_BT = rows
        logits_BTV = unembed(model, head, states_BTD)
        values_BT = next_token_loss(logits_BTV, targets_BT)
        gaps_N = calibration_gaps(
            logits_BTV, targets_BT, n_bins=N_BINS, weights=weights_BT
        )
        right_BT = rank_labels(logits_BTV, targets_BT) < 1
        within_BT = is_among_largest(logits_BTV, targets_BT, k=top_k)
        counts = (jnp.sum(weights_BT * hits) for hits in (right_BT, within_BT))
        return weighted_sums(values_BT, weights_BT)[0], ((*counts, gaps_N), None)

    def step(variables: Variables, batch: Batch) -> Sums:
        nats, ((first, within, gaps_N), _) = sum_over_positions(
            score,
            variables["params"]["head"],
            final_states(model, variables, batch),
            (batch.targets_BT, batch.weights_BT),
        )
        return Sums(nats, jnp.sum(batch.weights_BT), first, within, gaps_N)

    return step
