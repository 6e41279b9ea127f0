"""The training objective of a batch: cross entropy, terms, reweighting.

    objective = sum_t w_t (CE_t + sum_n c_n term_n,t) / sum_t w_t

Reweighting multiplies the cross entropies of each row by a factor that depends on the
losses of all rows. A batch may bring factors of its tokens, from a reference model
(`steps.token_weights`): they apply to the cross entropies too, also to those that the
rows' factors are computed from.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.losses import next_token_loss, weighted_sums
from lostjax.steps.head import sum_over_positions
from lostjax.steps.state import TrainState
from lostjax.typing import Batch, PyTree, Variables

Reweighting = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(losses (B, T), weights (B, T), step (0-based)) -> factors (B,) with mean 1 over
tokens; no gradient flows through the factors."""


class Term(NamedTuple):
    """A part of the objective in addition to the cross entropy."""

    values: Callable[[TrainState, PyTree, jax.Array, jax.Array], jax.Array]
    """(state, prepared, targets_BT, logits_BTV) -> values_BT, for any subset of
    positions; no gradient flows into the state."""
    weight: Callable[[jax.Array], ArrayLike]
    """Number of batches consumed before this one -> weight of the term."""
    prepare: Callable[[TrainState, Batch], PyTree] = lambda state, batch: ()
    """Per-position inputs of `values`: (state, batch) -> arrays (B, T, ...)."""


class _Rows(NamedTuple):
    """Per-position inputs that accompany the final states."""

    targets_BT: jax.Array
    weights_BT: jax.Array
    factors_BT: jax.Array
    """Factors on the weights of the cross entropies."""
    prepared: dict[str, PyTree]
    """Inputs of each term, by name."""


class Objective(NamedTuple):
    """The objective, and the values to return with it."""

    model: nn.Module
    terms: Mapping[str, Term]
    reweight: Reweighting | None
    remember: Callable[[jax.Array], PyTree]
    watch: bool
    shards: int

    def sum_up(
        self,
        params: PyTree,
        state: TrainState,
        batch: Batch,
        factors_B: jax.Array | None,
    ) -> tuple[jax.Array, Any]:
        """Sum the objective over a batch's positions; return all other values too.

        If `factors_B` is None, the factors are computed from the batch itself.
        """
        variables = {"params": params, "channels": state.channels}
        states_BTD, seen = _apply_watched(
            self.model, variables, batch, watch=self.watch
        )
        if factors_B is None and self.reweight is not None:
            values_BT = self.token_losses(params, states_BTD, batch)
            factors_B = self.reweight(values_BT, objective_weights(batch), state.step)
        if factors_B is None:
            # Factors of 1 keep one code path; the product costs nothing beside the
            # logits.
            factors_B = jnp.ones(len(batch.tokens_BT))
        factors_BT = jnp.broadcast_to(factors_B[:, None], batch.weights_BT.shape)
        if batch.factors_BT is not None:
            factors_BT = factors_BT * batch.factors_BT
        rows = _Rows(
            batch.targets_BT,
            batch.weights_BT,
            factors_BT,
            {name: term.prepare(state, batch) for name, term in self.terms.items()},
        )
        whole, (sums, outputs) = sum_over_positions(
            partial(self._score, state),
            params["head"],
            states_BTD,
            rows,
            shards=self.shards,
        )
        return whole, (sums, jnp.sum(batch.weights_BT), (seen, outputs))

    def token_losses(
        self, params: PyTree, states_BTD: jax.Array, batch: Batch
    ) -> jax.Array:
        """Compute the loss of every token (B, T), without gradient."""
        return token_losses(
            self.model,
            params["head"],
            states_BTD,
            targets_BT=batch.targets_BT,
            shards=self.shards,
        )

    def _score(
        self, state: TrainState, head: PyTree, states_BTD: jax.Array, rows: _Rows
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
        """Sum the objective over some positions; return its parts and outputs too."""
        logits_BTV = unembed(self.model, head, states_BTD)
        values_BT = next_token_loss(logits_BTV, rows.targets_BT)
        sums = {"loss": weighted_sums(values_BT, rows.weights_BT)[0]}
        whole, _ = weighted_sums(values_BT, rows.weights_BT * rows.factors_BT)
        for name, term in self.terms.items():
            values_BT = term.values(
                state, rows.prepared[name], rows.targets_BT, logits_BTV
            )
            sums[name], _ = weighted_sums(values_BT, rows.weights_BT)
            # Weights follow batches and not steps: a rollback does not replay a
            # schedule.
            whole = whole + term.weight(state.batches) * sums[name]
        if self.watch:
            log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
            sums["mean_log_z"], _ = weighted_sums(log_z_BT, rows.weights_BT)
        return whole, (sums, self.remember(logits_BTV))


def objective_weights(batch: Batch) -> jax.Array:
    """Return how much each token's cross entropy counts before rows are reweighted."""
    weights_BT: jax.Array = batch.weights_BT
    return weights_BT if batch.factors_BT is None else weights_BT * batch.factors_BT


def token_losses(
    model: nn.Module,
    head: PyTree,
    states_BTD: jax.Array,
    *,
    targets_BT: jax.Array,
    shards: int,
) -> jax.Array:
    """Compute the loss of every token (B, T) from final states, without gradient."""

    def score(
        head: PyTree, states_BTD: jax.Array, targets_BT: jax.Array
    ) -> tuple[jax.Array, tuple[None, jax.Array]]:
        logits_BTV = unembed(model, head, states_BTD)
        return jnp.zeros(()), (None, next_token_loss(logits_BTV, targets_BT))

    # No backward pass: what follows from the losses are constants, and the model's
    # graph is not needed twice.
    head, states_BTD = jax.lax.stop_gradient((head, states_BTD))
    values_BT: jax.Array
    _, (_, values_BT) = sum_over_positions(
        score, head, states_BTD, targets_BT, shards=shards
    )
    return values_BT


def final_states(model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    """Compute the final states (B, T, D) of a batch, the input of the head."""
    states_BTD, _ = _apply_watched(model, variables, batch, watch=False)
    return states_BTD


def unembed(model: nn.Module, head: PyTree, states_BTD: jax.Array) -> jax.Array:
    """Compute the logits (B, T, V) from final states (B, T, D)."""
    logits_BTV = model.apply({"params": {"head": head}}, states_BTD, method="unembed")
    # `apply` returns a tuple only with mutable collections: this narrows the type.
    assert isinstance(logits_BTV, jax.Array)
    return logits_BTV


def _apply_watched(
    model: nn.Module, variables: Variables, batch: Batch, *, watch: bool
) -> tuple[jax.Array, Variables]:
    """Compute final states and, if `watch`, the values that layers sow, (1, ...)."""
    made = model.apply(
        variables,
        batch.tokens_BT,
        segments_BT=batch.segments_BT,
        positions_BT=batch.positions_BT,
        # Flax records sown values only if their collection is mutable.
        mutable=["intermediates"] if watch else False,
        method="final_states",
    )
    states_BTD, seen = made if watch else (made, {})
    assert isinstance(states_BTD, jax.Array)
    return states_BTD, jax.tree.map(lambda x: x[None], seen)
