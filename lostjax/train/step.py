"""One optimiser step: the only place where model, losses and optimiser meet.

loss      = sum_t w_t (CE_t + c log^2 Z_t) / sum_t w_t      over the global batch
gradients = d loss / d params, exact also over micro-batches: sums of weighted
            losses are accumulated and divided once by the sum of weights, so that
            micro-batches with different numbers of tokens count by their tokens.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lostjax.data.batches import Batch
from lostjax.losses import log_partition_penalty, next_token_loss, weighted_sums
from lostjax.train.state import TrainState
from lostjax.typing import PyTree, Variables

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    log_partition: float = 0.0,
) -> TrainStep:
    """Build step(state, batch) -> state, metrics; pure, to be jitted by the caller.

    Args:
      model: `apply(variables, tokens_BT, segments_BT=, positions_BT=) -> logits_BTV`.
      tx: the optimiser.
      accumulate: micro-batches; divides the batch. Memory of activations falls by it.
      log_partition: weight of the log-partition penalty.

    Returns:
      The step. Its metrics, float32 scalars: `loss` (mean cross entropy in nats),
      `gradient_norm` (global norm before clipping), `tokens` (weighted positions).
    """

    def objective(
        params: PyTree, channels: PyTree, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits_BTV = _apply(model, {"params": params, "channels": channels}, batch)
        values_BT = next_token_loss(logits_BTV, batch.targets_BT)
        total, weight = weighted_sums(values_BT, batch.weights_BT)
        penalised = total
        if log_partition:
            penalties_BT = log_partition_penalty(logits_BTV)
            penalty, _ = weighted_sums(penalties_BT, batch.weights_BT)
            penalised = total + log_partition * penalty
        return penalised, (total, weight)

    gradient = jax.grad(objective, has_aux=True)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def one(part: Batch) -> Any:
            return gradient(state.params, state.channels, part)

        grads, (total, weight) = _accumulated(one, batch, accumulate)
        scale = 1.0 / jnp.maximum(weight, 1e-9)
        grads = jax.tree.map(lambda grad: grad * scale, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": total * scale,
            "gradient_norm": optax.tree.norm(grads),
            "tokens": weight,
        }
        return TrainState(state.step + 1, params, state.channels, opt_state), metrics

    return step


def make_eval_step(model: nn.Module) -> EvalStep:
    """Build eval(variables, batch) -> (sum of losses in nats, number of tokens)."""

    def step(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits_BTV = _apply(model, variables, batch)
        values_BT = next_token_loss(logits_BTV, batch.targets_BT)
        return weighted_sums(values_BT, batch.weights_BT)

    return step


def _apply(model: nn.Module, variables: Variables, batch: Batch) -> jax.Array:
    logits_BTV = model.apply(
        variables,
        batch.tokens_BT,
        segments_BT=batch.segments_BT,
        positions_BT=batch.positions_BT,
    )
    assert isinstance(logits_BTV, jax.Array)
    return logits_BTV


def _accumulated(one: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """Sum `one` over micro-batches, each holding every parts-th row.

    Strided rows keep each micro-batch spread over all shards of the batch.
    """
    if parts == 1:
        return one(batch)
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch
    )
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], split)),
    )

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    total, _ = jax.lax.scan(add, zeros, split)
    return total


__all__ = ["EvalStep", "Metrics", "TrainStep", "make_eval_step", "make_train_step"]
