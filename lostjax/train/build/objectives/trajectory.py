"""Build the trajectory term, which keeps a model near its past: SAF, MESA or lagged.

    objective += lambda(epoch) t^2 KL(softmax(past / t) || softmax(now / t))

saf     The past is the model's outputs for the same row some epochs ago, kept in the
        state's memory (top-k, by row and epoch). A row without them adds nothing. It
        needs no further forward pass, but the rows must be repeated.
mesa    The past is the output under a moving average of the parameters, kept in the
        optimiser's state: one more forward pass, and one copy of the parameters.
lagged  The past is the output under a copy of the parameters from some steps ago, at
        the cost of mesa.

lambda(epoch) is the weight in the window [start, end) of epochs and 0 outside it, where
the divergence is still measured. An epoch is a pass over the training rows: batches x
batch_size / rows. See `losses.trajectory` for the paper and for differences from the
authors' code.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lostjax.data import Batch, BatchPlan
from lostjax.errors import ConfigError
from lostjax.losses import (
    compress_outputs,
    compressed_trajectory_loss,
    trajectory_loss,
)
from lostjax.optim import (
    OutputMemory,
    get_past_params,
    init_memory,
    recall_outputs,
    track_lagged_params,
    track_past_params,
    window_schedule,
)
from lostjax.steps.objective import Term, final_states, unembed
from lostjax.steps.state import InitMemory, TrainState
from lostjax.train.config.schema import TrainConfig, TrajectoryConfig
from lostjax.typing import PyTree, Variables


class Trajectory(NamedTuple):
    """The parts that a trajectory term adds to a run; by default none."""

    prepare: Callable[[nn.Module, TrainState, Batch], PyTree] | None = None
    """(model, state, batch) -> the past of each position, as `compare` takes it."""
    compare: Callable[[nn.Module, TrainState, PyTree, jax.Array], jax.Array] | None = (
        None
    )
    """(model, state, past, logits_BTV) -> divergences_BT, for any set of positions."""
    weight: optax.Schedule = optax.constant_schedule(0.0)
    """Number of earlier batches -> weight of the divergence."""
    track: tuple[optax.GradientTransformation, ...] = ()
    """Transforms that are appended to the optimiser's chain."""
    init_memory: InitMemory = lambda: None
    """Makes the state's memory of past outputs."""
    remember: Callable[[jax.Array], PyTree] = lambda logits_BTV: None
    """Logits -> the outputs that the memory keeps."""
    average: Callable[[TrainState], Variables] | None = None
    """State -> variables of the moving average, which is also evaluated; None: none."""

    def terms(self, model: nn.Module) -> dict[str, Term]:
        """Return the terms of the objective by name, for a model bound to a mesh."""
        if self.prepare is None or self.compare is None:
            return {}
        compare = partial(self.compare, model)
        return {
            "trajectory": Term(
                lambda state, past, targets_BT, logits_BTV: compare(
                    state, past, logits_BTV
                ),
                self.weight,
                partial(self.prepare, model),
            )
        }


def build_trajectory(
    config: TrainConfig, *, vocab_size: int, rows: BatchPlan | None
) -> Trajectory:
    """Build the trajectory term that `--objective.trajectory` names.

    Args:
      config: already checked.
      vocab_size: size of the vocabulary.
      rows: the training rows; None if a state is only to be described or restored.

    Returns:
      The parts; `Trajectory()` for `none`.

    Raises:
      ConfigError: if the run ends before the divergence is first added, or top-k is
        larger than the vocabulary.
    """
    past = config.objective.trajectory
    if past.name == "none":
        return Trajectory()
    if rows is None:
        return Trajectory(track=_build_track(past), average=_find_average(past))
    epochs_a_step = config.batch_size / rows.n_rows
    _check_start(past, epochs=config.steps * epochs_a_step)
    window = window_schedule(
        past.weight,
        start=past.start,
        end=math.inf if past.end is None else past.end,
    )
    if past.remembers_rows:
        _check_memory(config, vocab_size=vocab_size, rows=rows)
        trajectory = _remember_outputs(config, vocab_size=vocab_size, rows=rows)
    else:
        trajectory = _compare_with_past_params(past)
    return trajectory._replace(weight=lambda batches: window(batches * epochs_a_step))


def past_variables(state: TrainState) -> Variables:
    """Return the model's variables with the past parameters in the optimiser's state.

    Raises:
      ValueError: if the optimiser's state holds no past parameters.
    """
    past = get_past_params(state.opt_state)
    params = optax.tree.cast_like(past, state.params)
    return {"params": params, "channels": state.channels}


def _build_track(
    past: TrajectoryConfig,
) -> tuple[optax.GradientTransformation, ...]:
    """Build the transforms that track past parameters; () without any."""
    if past.keeps_average:
        return (track_past_params(past.decay),)
    if past.name == "lagged":
        return (track_lagged_params(past.lag_steps),)
    return ()


def _find_average(past: TrajectoryConfig) -> Callable[[TrainState], Variables] | None:
    return past_variables if past.keeps_average else None


def _compare_with_past_params(past: TrajectoryConfig) -> Trajectory:
    """Build a term that compares with the model's outputs under past parameters."""

    def prepare(model: nn.Module, state: TrainState, batch: Batch) -> jax.Array:
        return final_states(model, past_variables(state), batch)

    def compare(
        model: nn.Module, state: TrainState, past_BTD: PyTree, logits_BTV: jax.Array
    ) -> jax.Array:
        head = past_variables(state)["params"]["head"]
        return trajectory_loss(
            logits_BTV,
            unembed(model, head, past_BTD),
            temperature=past.temperature,
        )

    return Trajectory(
        prepare, compare, track=_build_track(past), average=_find_average(past)
    )


def _remember_outputs(
    config: TrainConfig, *, vocab_size: int, rows: BatchPlan
) -> Trajectory:
    """Build a term that compares with the outputs for the same row some epochs ago."""
    past_config = config.objective.trajectory
    temperature = past_config.temperature
    remember = partial(compress_outputs, k=past_config.top_k, temperature=temperature)

    def prepare(model: nn.Module, state: TrainState, batch: Batch) -> PyTree:
        del model
        past, known_B = recall_outputs(
            state.memory, batch.example_B, epoch=batch.epoch_B
        )
        return past, jnp.broadcast_to(known_B[:, None], batch.tokens_BT.shape)

    def compare(
        model: nn.Module, state: TrainState, past: PyTree, logits_BTV: jax.Array
    ) -> jax.Array:
        del model, state
        outputs, known_BT = past
        divergence_BT = compressed_trajectory_loss(
            logits_BTV, outputs, temperature=temperature
        )
        return jnp.where(known_BT, divergence_BT, 0.0)

    def make_memory() -> OutputMemory:
        logits_TV = jax.ShapeDtypeStruct((config.data.seq_len, vocab_size), jnp.float32)
        return init_memory(
            rows.n_rows,
            jax.eval_shape(remember, logits_TV),
            lag=past_config.lag_epochs,
        )

    return Trajectory(prepare, compare, init_memory=make_memory, remember=remember)


def _check_start(past: TrajectoryConfig, *, epochs: float) -> None:
    if past.start >= epochs:
        raise ConfigError(
            f"--objective.trajectory.start={past.start}: must be below {epochs:.2f}, "
            "the number of epochs of the run"
        )


def _check_memory(config: TrainConfig, *, vocab_size: int, rows: BatchPlan) -> None:
    past = config.objective.trajectory
    if past.top_k > vocab_size:
        raise ConfigError(
            f"--objective.trajectory.top-k={past.top_k}: must lie in [1, {vocab_size}],"
            " the size of the vocabulary"
        )
    epochs = max(rows.count_epochs(config.steps))
    if epochs <= past.lag_epochs:
        raise ConfigError(
            f"--objective.trajectory={past.name}: no row is repeated after "
            f"--objective.trajectory.lag-epochs={past.lag_epochs}, because "
            f"--steps={config.steps} are {epochs:.2f} epochs; for text that is read "
            "only once use lagged or mesa"
        )
