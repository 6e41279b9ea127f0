"""The state that a training step reads and returns.

The state is a plain tree: step, number of skipped batches, trainable parameters, kept
channels (integers without gradient or decay), optimiser state, past outputs if the
objective uses them, and the guard's record of earlier steps. Together with the
configuration it is everything that a checkpoint needs, because a batch is a pure
function of the state:

    batch of the next step = batch_at(step + offset)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from lostjax.typing import PyTree, Variables


class TrainState(NamedTuple):
    """The values that change from step to step, and the kept channels."""

    step: jax.Array
    """Number of steps done, int32."""
    offset: jax.Array
    """Number of batches skipped by rollbacks so far, int32: see `train.rollback`."""
    params: PyTree
    """Trainable parameters, float32."""
    channels: PyTree
    """Kept input channels of LOST or support of SLTrain, int32; {} for dense models."""
    opt_state: PyTree
    """State of the optimiser."""
    memory: PyTree = None
    """Past outputs by example (SAF), an `OutputMemory`; None if they are not kept."""
    guard: PyTree = None
    """Record of skipped updates and recent losses, a `GuardState`; training steps need
    it."""

    @property
    def batches(self) -> jax.Array:
        """Number of batches consumed, int32: trained on or skipped."""
        return self.step + self.offset


InitMemory = Callable[[], PyTree]
"""A function that builds the memory of past outputs, or returns None."""


def model_variables(state: TrainState) -> Variables:
    """Return the parameters and channels of a state as the model's variables."""
    return {"params": state.params, "channels": state.channels}
