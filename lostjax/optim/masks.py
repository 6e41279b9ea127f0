"""Masks: trees of booleans that select parameters, whole or weight by weight.

Weight decay shrinks matrices. For scales (RMSNorm's, a learnt gamma) it is a bias
towards a wrong value, so they are excluded. They are identified by name, because
`nn.scan` stacks scales to two axes and their rank no longer distinguishes them.

`mask_updates` freezes single weights, which `optax.masked` cannot: it selects whole
arrays and passes the updates of the others through. A mask on the gradient would not be
enough, because momentum and weight decay still move a weight whose gradient is zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.optim.splitting.placement import place_like
from lostjax.trees import path_text
from lostjax.typing import PyTree

UNDECAYED_NAMES = frozenset({"scale", "bias", "gamma"})
"""Last path components of parameters that never decay."""


class MaskUpdatesState(NamedTuple):
    """The mask, which is checkpointed and placed on devices with the parameters."""

    mask: PyTree
    """Boolean arrays of the parameters' shapes; one number at arrays all alike."""


def mask_updates(
    mask: PyTree | Callable[[PyTree], PyTree],
) -> optax.GradientTransformationExtraArgs:
    """Keep weights bit for bit as they are, and update only the others.

    Use it at the end of a chain, after momentum, weight decay and the learning rate.
    The mask is kept in the state, one byte for each weight of an array mask, so that it
    is saved and sharded with the optimiser. Bits are kept except those of subnormal
    numbers, which most devices flush to zero when updates are applied.

    Args:
      mask: True at weights that are trained: a tree of booleans and of boolean arrays,
        or a prefix of one, such as a mask from `lostjax.analysis`; or a function that
        builds it from the parameters that `init` is called with.

    Returns:
      The transformation. Its `init` raises ValueError if the mask is no prefix of the
      parameters, an array has another shape than its parameter, or is not boolean.

    Example:
      mask = analysis.magnitude_mask(params, 0.3)
      tx = optax.chain(optax.adamw(1e-3), mask_updates(mask))
    """

    def init(params: PyTree) -> MaskUpdatesState:
        return MaskUpdatesState(
            _spread(mask(params) if callable(mask) else mask, params)
        )

    def update(
        updates: PyTree,
        state: MaskUpdatesState,
        params: PyTree | None = None,
        **_: Any,
    ) -> tuple[PyTree, MaskUpdatesState]:
        del params
        # -0 and not 0: the sum of -0 and any number, -0 too, has that number's bits. A
        # product would pass NaN through.
        frozen = jax.tree.map(
            lambda kept, x: jnp.where(kept, x, jnp.full_like(x, -0.0)),
            state.mask,
            updates,
        )
        return frozen, state

    return optax.GradientTransformationExtraArgs(init, update)


def _spread(mask: PyTree, params: PyTree) -> PyTree:
    """Make a mask with the structure of the parameters from a prefix of it."""
    if not jax.tree.leaves(params):  # such as the tree of optax.tree.map_params
        return params
    try:
        tree = jax.tree.broadcast(mask, params)
    except ValueError as error:
        raise ValueError(f"mask: not a prefix of the parameters: {error}") from None

    def check(path: tuple[object, ...], leaf: Any, kept: Any) -> jax.Array:
        name = f"mask, {path_text(path)}"
        dtype = np.dtype(getattr(kept, "dtype", type(kept)))
        if dtype != np.bool_:
            raise ValueError(f"{name}: {dtype}, must be boolean")
        if np.ndim(kept) and np.shape(kept) != np.shape(leaf):
            raise ValueError(
                f"{name}: shape {np.shape(kept)}, must be {np.shape(leaf)} or one "
                "boolean"
            )
        # A copy: the state may be donated, and the caller's mask would be deleted.
        return _lay_as(leaf, jnp.array(kept, copy=True))

    return jax.tree.map_with_path(check, params, tree)


def _lay_as(leaf: Any, kept: jax.Array) -> jax.Array:
    """Place a mask as its parameter is, so that both meet without communication."""
    if not kept.ndim or not isinstance(leaf, jax.Array):
        return kept
    if isinstance(leaf, jax.core.Tracer) or isinstance(kept, jax.core.Tracer):
        return place_like(kept, leaf)
    placed: jax.Array = jax.device_put(kept, leaf.sharding)
    return placed


def mask_decayed(params: PyTree) -> PyTree:
    """Build the mask of the parameters that weight decay applies to.

    Args:
      params: a nest of dicts of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The same nest with True at matrices and False at scales, biases and scalars.
    """

    def is_decayed(path: tuple[object, ...], leaf: Any) -> bool:
        # A scalar is a scale or a temperature, whatever its name.
        return leaf.ndim >= 1 and leaf_name(path) not in UNDECAYED_NAMES

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def leaf_name(path: tuple[object, ...]) -> str:
    """Return the last component of a leaf's path; empty for a tree of one leaf."""
    return str(getattr(path[-1], "key", getattr(path[-1], "name", ""))) if path else ""
