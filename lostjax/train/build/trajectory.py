"""The past that a run compares itself with: SAF, MESA, or a lagged copy.

    objective += lambda(epoch) t^2 KL(softmax(past / t) || softmax(now / t))

saf     past answers to the same row, kept in the state's memory (top-k, by row and
        epoch); a row without them adds nothing. No pass more, but rows must come again.
mesa    a moving average of the parameters, in the optimiser's state: a forward pass
        more, and a copy of the parameters.
lagged  a copy of the parameters from some steps ago: the same cost.

lambda(epoch) holds in the window [start, end) of epochs, which are passes over the
training rows, batches x batch_size / rows; outside it the divergence is still measured.
See `losses.trajectory` for the paper, and for what the authors' code does otherwise.
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
from lostjax.errors import ConfigError
from lostjax.train.config.schema import TrainConfig, TrajectoryConfig
from lostjax.steps.gradient import Term, final_states, unembed
from lostjax.steps.state import InitMemory, TrainState
from lostjax.typing import PyTree, Variables


class Trajectory(NamedTuple):
    """What a choice of past adds to a run; nothing by default."""

    prepare: Callable[[nn.Module, TrainState, Batch], PyTree] | None = None
    """(model, state, batch) -> what is known of the past of each position."""
    compare: Callable[[nn.Module, TrainState, PyTree, jax.Array], jax.Array] | None = (
        None
    )
    """(model, state, past, logits_BTV) -> divergences_BT, of any positions."""
    weight: optax.Schedule = optax.constant_schedule(0.0)
    """Batches gone through before -> weight of the divergence."""
    track: tuple[optax.GradientTransformation, ...] = ()
    """What comes last in the optimiser's chain."""
    init_memory: InitMemory = lambda: None
    """Makes the state's memory of past outputs."""
    remember: Callable[[jax.Array], PyTree] = lambda logits_BTV: None
    """Logits to the outputs that the memory keeps."""
    average: Callable[[TrainState], Variables] | None = None
    """Variables of a moving average that is evaluated as well; None: there is none."""

    def terms(self, model: nn.Module) -> dict[str, Term]:
        """Give the term of the objective, for the model as it lies on the mesh."""
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
    """Build what `--objective.trajectory` asks for.

    Args:
      config: already checked.
      vocab_size: size of the vocabulary.
      rows: the training rows; None to describe and restore a state only.

    Returns:
      The parts; `Trajectory()` for none.

    Raises:
      ConfigError: if the divergence could never count, or top-k is more than the
        vocabulary.
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
    """Give the model's variables with the past parameters that the optimiser keeps.

    Raises:
      ValueError: where it keeps none.
    """
    past = get_past_params(state.opt_state)
    params = optax.tree.cast_like(past, state.params)
    return {"params": params, "channels": state.channels}


def _build_track(
    past: TrajectoryConfig,
) -> tuple[optax.GradientTransformation, ...]:
    """Build what tracks past parameters, last in the optimiser's chain; () for none."""
    if past.name == "mesa":
        return (track_past_params(past.decay),)
    if past.name == "lagged":
        return (track_lagged_params(past.lag_steps),)
    return ()


def _find_average(past: TrajectoryConfig) -> Callable[[TrainState], Variables] | None:
    return past_variables if past.name == "mesa" else None


def _compare_with_past_params(past: TrajectoryConfig) -> Trajectory:
    """Compare with the model's answers under past parameters."""

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
    """Compare with the model's answers to the same row some epochs ago."""
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
        logits_TV = jax.ShapeDtypeStruct(
            (config.data.seq_len, vocab_size), jnp.float32
        )
        return init_memory(
            rows.n_rows,
            jax.eval_shape(remember, logits_TV),
            lag=past_config.lag_epochs,
        )

    return Trajectory(prepare, compare, init_memory=make_memory, remember=remember)


def _check_start(past: TrajectoryConfig, *, epochs: float) -> None:
    if past.start >= epochs:
        raise ConfigError(
            f"--objective.trajectory.start={past.start}: the run ends before, after "
            f"{epochs:.2f} epochs"
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
            f"--objective.trajectory={past.name}: no row comes again after "
            f"--objective.trajectory.lag-epochs={past.lag_epochs}, because "
            f"--steps={config.steps} are {epochs:.2f} epochs; for text that is seen "
            "once use lagged or mesa"
        )
