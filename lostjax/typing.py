"""Array aliases and the letter legend of lostjax.

Names of arrays end in the letters of their axes, in order: `x_BTD` is batch x time
x model. Kernels are (in, out).

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
"""A nest of dicts, tuples and NamedTuples with arrays at its leaves."""

Variables = Mapping[str, Any]
"""What `Module.init` returns: a mapping from collection name to its tree."""

Key = PRNGKeyArray | jax.Array
"""A JAX random key, new style (`jax.random.key`) or old."""

Scalar = jax.Array | float | int
"""A number, or a traced one, as `optax.inject_hyperparams` makes them."""

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function, such as `flax.linen.silu`."""

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
