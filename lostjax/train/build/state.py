"""Make the first state of a run on a mesh, or only its shapes.

`lostjax.steps.state.TrainState` lists the parts of a state.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lostjax.steps.guard import init_guard
from lostjax.steps.state import InitMemory, TrainState, model_variables
from lostjax.train.devices.sharding import tree_shardings
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
    variables: Variables | None = None,
) -> TrainState:
    """Make the first state; each device computes its own shards of it.

    Args:
      model: a module whose `init(key, tokens_BT)` returns params and channels.
      tx: the optimiser.
      mesh: the devices that hold the state.
      key: random key; the state that it makes is the same on every mesh.
      init_memory: makes the memory of past outputs.
      variables: params and channels to start from, sharded by the same table; None:
        those that the key makes.

    Returns:
      The state at step 0, sharded by the table of `train.devices.mesh`.
    """
    shapes = abstract_state(model, tx, key=key, init_memory=init_memory)
    shardings = tree_shardings(shapes, mesh)
    # Jitted with shardings, so that no device ever holds a whole array. Two programs,
    # so that the optimiser's state cannot change the rounding of the parameters.
    start = jax.jit(
        lambda key: _init_variables(model, key),
        out_shardings=model_variables(shardings),
    )
    finish = jax.jit(
        lambda variables: _start_state(variables, tx, init_memory),
        out_shardings=shardings._replace(params=None, channels=None),
    )
    if variables is None:
        variables = start(key)
    made: TrainState = finish(variables)._replace(**variables)
    return made


def abstract_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    key: Key,
    init_memory: InitMemory = _no_memory,
) -> TrainState:
    """Return the shapes and types of a state; no array is made.

    Args:
      model: see `init_state`.
      tx: the optimiser.
      key: random key, not used for any value.
      init_memory: makes the memory of past outputs.

    Returns:
      A `TrainState` of `jax.ShapeDtypeStruct`.
    """

    def make(key: Key) -> TrainState:
        variables = _init_variables(model, key)
        return _start_state(variables, tx, init_memory)._replace(**variables)

    shapes: TrainState = jax.eval_shape(make, key)
    return shapes


def abstract_variables(model: nn.Module) -> Variables:
    """Return the shapes and types of a model's params and channels."""
    variables: Variables = jax.eval_shape(
        lambda: _init_variables(model, jax.random.key(0))
    )
    return variables


def _start_state(
    variables: Variables, tx: optax.GradientTransformation, init_memory: InitMemory
) -> TrainState:
    """Make a state without its variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        offset=jnp.zeros((), jnp.int32),
        params=None,
        channels=None,
        opt_state=tx.init(variables["params"]),
        memory=init_memory(),
        guard=init_guard(),
    )


def _init_variables(model: nn.Module, key: Key) -> dict[str, PyTree]:
    made = model.init(key, jnp.zeros((1, 2), jnp.int32))
    return {"params": made["params"], "channels": made.get("channels", {})}
