"""Array aliases, and the legend of the axis letters.

The name of an array ends in the letters of its axes, in order: `x_BTD` has the axes
batch, time and model width. Kernels are (inputs, outputs).

    B batch          T time           D model width     F hidden width
    H heads          K head width     V vocabulary      L layers
    M inputs         N outputs        R rank            C kept channels
    G channel groups
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

PyTree = Any
"""A nest of dicts, tuples and NamedTuples with arrays as leaves."""

Variables = Mapping[str, Any]
"""The result of `Module.init`: a mapping from collection name to tree."""

Key = PRNGKeyArray | jax.Array
"""A JAX random key: a typed one (`jax.random.key`) or a raw array of the old kind."""

Scalar = jax.Array | np.number | float | int
"""A number of Python or NumPy, or a traced one as `optax.inject_hyperparams` passes."""

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function such as `flax.linen.silu`."""


class Batch(NamedTuple):
    """Rows of packed tokens: NumPy arrays on the host, JAX arrays on devices."""

    tokens_BT: Any
    """Input tokens, int32."""
    targets_BT: Any
    """Target tokens (the next token of each input), int32."""
    weights_BT: Any
    """1, or 0 for padding, float32."""
    segments_BT: Any
    """Number of the document within the row, from 1; 0 for padding, int32."""
    positions_BT: Any
    """Position within the document and the row, from 0, int32."""
    example_B: Any
    """Number of the row, unique over all sources; -1 for a row of padding, int32."""
    epoch_B: Any
    """Number of completed passes over the row's source, int32; each row occurs once per
    epoch. 0 in an evaluation."""
    factors_BT: Any = None
    """Factors on the weights of the tokens' cross entropies in the objective, with mean
    1 over a row by weight, float32; None for 1 each."""


__all__ = [
    "Activation",
    "Array",
    "Batch",
    "Bool",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
    "Variables",
]
