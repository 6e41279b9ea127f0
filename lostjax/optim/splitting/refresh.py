"""When a subspace is drawn anew, and what becomes of the state that lives in it.

    RESET         start again from zero, step count and all: FRUGAL's code, the default
    KEEP          leave the numbers as they are, now read in the new basis: GaLore
    REPROJECT     s <- restrict_new(expand_old(s)): FRUGAL's Algorithm 1. Arrays under a
                  field called `nu` are second moments, as everywhere in optax, and turn
                  with the squares of the cosines between the bases; so do `nu_max` and
                  `sum_of_squares`.

For disjoint parts, REPROJECT is RESET but for the step count.

A clock counts the updates since a refresh, so that the gap may change at any step, as
by a schedule; while it does not, the index of a subspace is (update + offset) // gap.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree, Scalar

Carry = Callable[[jax.Array], jax.Array]
"""From a kept part in the old basis to one in the new."""

SQUARE_FIELDS = frozenset({"nu", "nu_max", "sum_of_squares"})
"""Fields of optax's states that hold second moments."""


class Clock(NamedTuple):
    """Where a group of matrices is between two refreshes; state."""

    age: jax.Array
    """Updates since its refresh (at first its offset), int32."""
    refresh: jax.Array
    """Index of its subspace, from 0, int32."""


class Tick(NamedTuple):
    """What a clock says at one update."""

    due: jax.Array
    """Whether the subspace is drawn anew; true at the first update."""
    before: jax.Array
    """Index of the subspace until now."""
    refresh: jax.Array
    """Index of the subspace from now on."""


def start_clocks(gap: Scalar, n_groups: int) -> tuple[Clock, ...]:
    """Set one clock for each group, off by even parts of the gap."""
    zero = jnp.zeros((), jnp.int32)
    return tuple(
        Clock(jnp.asarray(group * gap // n_groups, jnp.int32), zero)
        for group in range(n_groups)
    )


def advance_clocks(
    clocks: Sequence[Clock], *, gap: Scalar, is_first: jax.Array
) -> tuple[tuple[Tick, ...], tuple[Clock, ...]]:
    """Read clocks at an update, and move them on."""
    ticks, moved = [], []
    for clock in clocks:
        passed = clock.age >= gap
        refresh = clock.refresh + (passed & ~is_first)
        ticks.append(Tick(passed | is_first, clock.refresh, refresh))
        moved.append(Clock(jnp.where(passed, 0, clock.age) + 1, refresh))
    return tuple(ticks), tuple(moved)


def expire_clock(clock: Clock) -> Clock:
    """Make a clock's next update a refresh."""
    return clock._replace(age=jnp.full_like(clock.age, 2**31 - 1))


class RefreshRule(NamedTuple):
    """A rule that renews a state where a refresh is due."""

    renew: Callable[..., optax.OptState]
    """(due, state, fresh=fresh state, carried=function that gives the carried state)
    -> state, with `due` a boolean scalar."""


class Carries(NamedTuple):
    """How one kept part moves from the old basis to the new."""

    shape: tuple[int, ...]
    """Of the kept part."""
    moments: Carry
    squares: Carry


def _reset(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del carried
    # Gradients of another type than the parameters must not change the state's.
    return jax.tree.map(
        lambda new, old: jnp.where(due, jnp.astype(new, old.dtype), old), fresh, state
    )


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
    # `x/a` ends with `a`: of two leaves' paths, the longer is meant.
    by_path.sort(key=lambda pair: -len(pair[0]))

    def carry(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        for ending, part in by_path:
            start = len(path) - len(ending)
            if start >= 0 and path[start:] == ending and leaf.shape == part.shape:
                field = getattr(path[start - 1], "name", "") if start else ""
                move = part.squares if field in SQUARE_FIELDS else part.moments
                moved: jax.Array = move(leaf).astype(leaf.dtype)
                return moved
        return leaf

    return jax.tree.map_with_path(carry, state)


def _is_carries(x: Any) -> bool:
    return isinstance(x, Carries)
