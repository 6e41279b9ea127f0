"""One optimiser step, which combines model, losses and optimiser.

The step computes the gradient (`steps.gradient`) and passes it to the optimiser, unless
the guard finds a number that is not finite or a spike of the loss (`steps.guard`). It
writes the model's outputs to the memory of past outputs and returns the metrics.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lostjax.losses import next_token_loss, weighted_sums
from lostjax.optim import write_outputs
from lostjax.steps.gradient import GradientOf
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
from lostjax.steps.objective import final_states, unembed
from lostjax.steps.readings import take_readings
from lostjax.steps.state import TrainState
from lostjax.typing import Batch, PyTree, Variables

Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Variables, Batch], tuple[jax.Array, jax.Array]]


def make_train_step(
    gradient: GradientOf,
    tx: optax.GradientTransformation,
    *,
    guard: Guard = Guard(),  # noqa: B008
) -> TrainStep:
    """Build step(state, batch) -> (state, metrics); pure, to be jitted by the caller.

    Args:
      gradient: result of `make_gradient`. If it watches the layers, the metrics contain
        `readings` (see `steps.readings`), which cost one pass over all tensors.
      tx: the optimiser.
      guard: conditions under which an update is skipped.

    Returns:
      The step. Its metrics are scalars. float32: `loss` (mean cross entropy in nats,
      without reweighting), the mean of each term before its weight, `gradient_norm`
      (global norm before clipping), `tokens` (sum of the positions' weights), and
      `spike_limit` (loss above which the loss is a spike). int32: `skipped` (1 if the
      update was skipped, else 0), `skipped_in_a_row`, `skipped_total`, `spiked` (1 if
      the loss is a spike), and `passed_over` (the state's offset).
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
            # Reads of the memory must precede the write, or the compiler copies the
            # whole memory. `taken` depends on everything that was read and orders them.
            # Id -1 is never written, so a skipped update leaves the memory unchanged.
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
      model: see `make_gradient`.
      shards: number of contiguous parts of the batch's rows on different devices.

    Returns:
      The evaluation step; both results are float32 scalars.
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
