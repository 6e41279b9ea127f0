"""Array aliases, and the legend of the axis letters.

The name of an array ends in the letters of its axes, in order: `x_BTD` has the axes
batch, time and model width. Kernels are (inputs, outputs).

    B batch          T time           D model width     F hidden width
    H heads          K head width     V vocabulary      L layers
    M inputs         N outputs        R rank            C kept channels
    G channel groups
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

PyTree = Any
"""A nest of dicts, tuples and NamedTuples with arrays as leaves."""

Variables = Mapping[str, Any]
"""The result of `Module.init`: a mapping from collection name to tree."""

Key = PRNGKeyArray | jax.Array
"""A JAX random key: a typed one (`jax.random.key`) or a raw array of the old kind."""

Scalar = jax.Array | float | int
"""A Python number, or a traced scalar as `optax.inject_hyperparams` passes it."""

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function such as `flax.linen.silu`."""

__all__ = [
    "Activation",
    "Array",
    "Bool",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
    "Variables",
]
