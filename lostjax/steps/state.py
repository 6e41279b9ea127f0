"""The state that a training step reads and returns.

State is a plain tree: step, batches passed over, trainable parameters, kept channels
(integers that no gradient and no decay touches), optimiser state, past outputs if the
objective keeps them, and the guard's record of earlier steps.
Together with the configuration it is all that a checkpoint needs, because a batch is a
pure function of the state:

    batch of the next step = batch_at(step + offset)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from lostjax.typing import PyTree, Variables


class TrainState(NamedTuple):
    """What changes from step to step, and the kept channels."""

    step: jax.Array
    """Steps done, int32."""
    offset: jax.Array
    """Batches passed over so far, int32: see `train.rollback`."""
    params: PyTree
    """Trainable parameters, float32."""
    channels: PyTree
    """Kept input channels of LOST, support of SLTrain: int32; {} for dense."""
    opt_state: PyTree
    """Optimiser state, of the transformation that made it."""
    memory: PyTree = None
    """Past outputs by example (SAF), an `OutputMemory`; None where none are kept."""
    guard: PyTree = None
    """Updates that were not taken, and recent losses: a `GuardState`, which a training
    step needs."""

    @property
    def batches(self) -> jax.Array:
        """Batches gone through, int32: by the steps done, or passed over."""
        return self.step + self.offset


InitMemory = Callable[[], PyTree]
"""Makes the memory of past outputs, or None."""


def model_variables(state: TrainState) -> Variables:
    """Give a state's parameters and channels as the model's variables."""
    return {"params": state.params, "channels": state.channels}
