"""What becomes of a state when the subspace that it lives in is drawn anew.

    RESET         start again from zero, step count and all: FRUGAL's code, the default
    KEEP          leave the numbers as they are, now read in the new basis: GaLore
    REPROJECT     s <- restrict_new(expand_old(s)): FRUGAL's Algorithm 1. Arrays under a
                  field called `nu` are second moments, as everywhere in optax, and turn
                  with the squares of the cosines between the bases.

For disjoint parts, REPROJECT is RESET but for the step count.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree

Carry = Callable[[jax.Array], jax.Array]
"""From a kept part in the old basis to one in the new."""


class RefreshRule(NamedTuple):
    """A rule that renews a state where a refresh is due."""

    renew: Callable[..., optax.OptState]
    """(due, state, fresh=fresh state, carried=function that gives the carried state)
    -> state, with `due` a boolean scalar."""


class Carries(NamedTuple):
    """How one kept part moves from the old basis to the new."""

    moments: Carry
    squares: Carry


def _reset(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del carried
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), fresh, state)


def _keep(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del due, fresh, carried
    return state


def _reproject(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del fresh
    return jax.lax.cond(due, carried, lambda: state)


RESET = RefreshRule(_reset)
KEEP = RefreshRule(_keep)
REPROJECT = RefreshRule(_reproject)


def carry_state(state: optax.OptState, carries: PyTree) -> optax.OptState:
    """Carry every array of a state that has a kept part's path and shape.

    Args:
      state: of a transformation, on a tree of kept parts.
      carries: that tree, with `Carries` for arrays.

    Returns:
      The state with its arrays carried; others, such as counts, stay.
    """
    by_path = jax.tree.leaves_with_path(carries, is_leaf=_is_carries)

    def carry(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        for ending, move in by_path:
            start = len(path) - len(ending)
            if leaf.ndim and start >= 0 and path[start:] == ending:
                field = getattr(path[start - 1], "name", "") if start else ""
                moved: jax.Array = (move.squares if field == "nu" else move.moments)(
                    leaf
                )
                return moved.astype(leaf.dtype)
        return leaf

    return jax.tree.map_with_path(carry, state)


def _is_carries(x: Any) -> bool:
    return isinstance(x, Carries)
