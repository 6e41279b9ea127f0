"""The whole state of a run, and how it is made on a mesh.

State is a plain tree: step, batches passed over, trainable parameters, kept channels
(integers that no gradient and no decay touches), optimiser state, past outputs where
they are kept, and what the guard knows of the steps before.
Together with the configuration it is all that a checkpoint needs, since a batch is a
pure function of the state:

    batch of the next step = batch_at(step + offset)
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lostjax.steps.state import InitMemory, TrainState
from lostjax.steps.guard import init_guard
from lostjax.train.devices.mesh import tree_shardings
from lostjax.typing import Key, PyTree, Variables






def _no_memory() -> None:
    """Keep no past outputs."""




def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    mesh: Mesh,
    key: Key,
    init_memory: InitMemory = _no_memory,
) -> TrainState:
    """Make the first state, each array born on its shards.

    Args:
      model: a module whose `init(key, tokens_BT)` gives params and channels.
      tx: the optimiser.
      mesh: where the state lives.
      key: random key; the same key gives the same state on every mesh.
      init_memory: makes the memory of past outputs.

    Returns:
      The state at step 0, sharded by the table of `train.devices.mesh`.
    """
    make = _make_init(model, tx, init_memory)
    shardings = tree_shardings(jax.eval_shape(make, key), mesh)
    init = jax.jit(make, out_shardings=shardings)
    made: TrainState = init(key)
    return made


def abstract_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    key: Key,
    init_memory: InitMemory = _no_memory,
) -> TrainState:
    """Give the shapes and types of a state, without making it."""
    shapes: TrainState = jax.eval_shape(_make_init(model, tx, init_memory), key)
    return shapes


def abstract_variables(model: nn.Module) -> Variables:
    """Give the shapes and types of a model's params and channels."""
    variables: Variables = jax.eval_shape(
        lambda: _init_variables(model, jax.random.key(0))
    )
    return variables


def _make_init(
    model: nn.Module, tx: optax.GradientTransformation, init_memory: InitMemory
) -> Callable[[Key], TrainState]:
    def init(key: Key) -> TrainState:
        variables = _init_variables(model, key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            offset=jnp.zeros((), jnp.int32),
            params=variables["params"],
            channels=variables["channels"],
            opt_state=tx.init(variables["params"]),
            memory=init_memory(),
            guard=init_guard(),
        )

    return init


def _init_variables(model: nn.Module, key: Key) -> dict[str, PyTree]:
    made = model.init(key, jnp.zeros((1, 2), jnp.int32))
    return {"params": made["params"], "channels": made.get("channels", {})}
