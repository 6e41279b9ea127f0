"""Make the first state of a run on a mesh, or only its shapes.

`lostjax.steps.state.TrainState` lists the parts of a state.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lostjax.steps.guard import init_guard
from lostjax.steps.state import InitMemory, TrainState
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
) -> TrainState:
    """Make the first state; each device computes its own shards of it.

    Args:
      model: a module whose `init(key, tokens_BT)` returns params and channels.
      tx: the optimiser.
      mesh: the devices that hold the state.
      key: random key; the state that it makes is the same on every mesh.
      init_memory: makes the memory of past outputs.

    Returns:
      The state at step 0, sharded by the table of `train.devices.mesh`.
    """
    make = _make_init(model, tx, init_memory)
    shardings = tree_shardings(jax.eval_shape(make, key), mesh)
    # Jitted with shardings, so that no device ever holds a whole array.
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
    """Return the shapes and types of a state; no array is made.

    Args:
      model: see `init_state`.
      tx: the optimiser.
      key: random key, not used for any value.
      init_memory: makes the memory of past outputs.

    Returns:
      A `TrainState` of `jax.ShapeDtypeStruct`.
    """
    shapes: TrainState = jax.eval_shape(_make_init(model, tx, init_memory), key)
    return shapes


def abstract_variables(model: nn.Module) -> Variables:
    """Return the shapes and types of a model's params and channels."""
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
