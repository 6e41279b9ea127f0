"""One optimiser step: where model, losses and optimiser meet.

The gradient (`steps.gradient`) goes to the optimiser, unless a number is not finite or
the loss a spike (`steps.guard`); what the losses saw goes to the memory of past
outputs, and what people want to see to the metrics.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lostjax.data.rows.batches import Batch
from lostjax.losses import next_token_loss, weighted_sums
from lostjax.optim import write_outputs
from lostjax.steps.gradient import GradientOf, final_states, unembed
from lostjax.steps.guard import (
    Guard,
    GuardState,
    count_update,
    is_fit,
    is_spike,
    spike_limit,
    update_if,
)
from lostjax.steps.head import sum_over_positions
from lostjax.steps.readings import take_readings
from lostjax.steps.state import TrainState
from lostjax.typing import PyTree, Variables

Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


def make_train_step(
    gradient: GradientOf,
    tx: optax.GradientTransformation,
    *,
    guard: Guard = Guard(),  # noqa: B008
) -> TrainStep:
    """Build step(state, batch) -> state, metrics; pure, to be jitted by the caller.

    Args:
      gradient: `make_gradient(model, ...)`; where it watches the layers the metrics
        have `readings`, see `steps.readings`, at the cost of a pass over all tensors.
      tx: the optimiser.
      guard: when the update is not taken.

    Returns:
      The step. Its metrics, scalars: `loss` (mean cross entropy in nats, never
      reweighted), the mean of each term before its weight, `gradient_norm` (global
      norm before clipping), `tokens` (weighted positions), all float32; of the guard
      `skipped` (1 where the update was not taken, else 0), `skipped_in_a_row`,
      `skipped_total` and `spiked` (1 where the loss is a spike), all int32, and
      `spike_limit` (the loss past which it is); and `passed_over` (the state's offset).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        here = gradient(state, batch)
        grads = here.grads
        norm, loss = optax.tree.norm(grads), here.means["loss"]
        updated = update_if(
            is_fit(guard, state.guard, loss=loss, norm=norm),
            tx,
            grads=grads,
            opt_state=state.opt_state,
            params=state.params,
            check_updates=guard.check_updates,
        )
        guarded = count_update(guard, state.guard, taken=updated.taken, loss=loss)
        metrics: Metrics = dict(here.means)
        metrics |= {"gradient_norm": norm, "tokens": here.weight}
        metrics |= _describe_guard(updated.taken, guarded)
        metrics |= {
            "spiked": is_spike(guard, state.guard, loss=loss).astype(jnp.int32),
            "spike_limit": spike_limit(guard, state.guard),
            "passed_over": state.offset,
        }
        if here.seen is not None:
            metrics["readings"] = take_readings(
                here.seen,
                mean_log_z=metrics["mean_log_z"],
                gradients=grads,
                parameters=state.params,
                updates=updated.updates,
            )
        memory = state.memory
        if memory is not None:
            # What is read from the memory must be read before the write, or the
            # compiler copies the memory: `taken` depends on all that was read.
            ids_B = jnp.where(updated.taken, batch.example_B, -1)
            memory = write_outputs(memory, ids_B, here.outputs, epoch=batch.epoch_B)
        after = TrainState(
            step=state.step + 1,
            offset=state.offset,
            params=updated.params,
            channels=state.channels,
            opt_state=updated.opt_state,
            memory=memory,
            guard=guarded,
        )
        return after, metrics

    return step


def _describe_guard(taken: jax.Array, guarded: GuardState) -> Metrics:
    return {
        "skipped": 1 - taken.astype(jnp.int32),
        "skipped_in_a_row": guarded.in_a_row,
        "skipped_total": guarded.skipped,
    }


def make_eval_step(model: nn.Module, *, shards: int = 1) -> EvalStep:
    """Build eval(variables, batch) -> (sum of losses in nats, number of tokens).

    Args:
      model: as of `make_gradient`.
      shards: contiguous parts of the batch's rows that lie on different devices.
    """

    def score(
        head: PyTree, states_BTD: jax.Array, rows: Any
    ) -> tuple[jax.Array, tuple[None, None]]:
        targets_BT, weights_BT = rows
        values_BT = next_token_loss(unembed(model, head, states_BTD), targets_BT)
        return weighted_sums(values_BT, weights_BT)[0], (None, None)

    def step(variables: Variables, batch: Batch) -> tuple[jax.Array, jax.Array]:
        total, _ = sum_over_positions(
            score,
            variables["params"]["head"],
            final_states(model, variables, batch),
            (batch.targets_BT, batch.weights_BT),
            shards=shards,
        )
        return total, jnp.sum(batch.weights_BT)

    return step
