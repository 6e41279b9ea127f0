"""Refreshes: when a subspace is redrawn, and the treatment of the state inside it.

    RESET         restart from zero, including the step count: FRUGAL's code, the
    default KEEP          keep the numbers and interpret them in the new basis: GaLore
    REPROJECT     s <- restrict_new(expand_old(s)): FRUGAL's Algorithm 1. Arrays under a
                  field `nu`, optax's name of second moments, transform with the squares
                  of the cosines between the bases; so do `nu_max` and `sum_of_squares`.

For disjoint parts, REPROJECT equals RESET except for the step count.

A clock counts the updates since a refresh, so the gap may change at any step, for
example by a schedule. While the gap is constant, the index of a subspace is
(update + offset) // gap.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lostjax.typing import PyTree, Scalar

Carry = Callable[[jax.Array], jax.Array]
"""A function from a kept part in the old basis to a kept part in the new basis."""

SQUARE_FIELDS = frozenset({"nu", "nu_max", "sum_of_squares"})
"""Fields of optax's states that hold second moments."""


class Clock(NamedTuple):
    """Progress of a group of matrices between two refreshes; part of the state."""

    age: jax.Array
    """Updates since the last refresh (initially an offset), int32."""
    refresh: jax.Array
    """Index of the present subspace, from 0, int32."""


class Tick(NamedTuple):
    """The reading of a clock at one update."""

    due: jax.Array
    """Whether the subspace is redrawn; True at the first update."""
    before: jax.Array
    """Index of the previous subspace."""
    refresh: jax.Array
    """Index of the subspace from this update on."""


def start_clocks(gap: Scalar, n_groups: int) -> tuple[Clock, ...]:
    """Build one clock per group, with offsets spread evenly over the gap."""
    return tuple(
        Clock(
            # Multiply before dividing: gap // n_groups alone is 0 if there are more
            # groups than steps.
            jnp.asarray(group * gap // n_groups, jnp.int32),
            # Not shared between clocks: a buffer can be donated only once.
            jnp.zeros((), jnp.int32),
        )
        for group in range(n_groups)
    )


def advance_clocks(
    clocks: Sequence[Clock], *, gap: Scalar, is_first: jax.Array
) -> tuple[tuple[Tick, ...], tuple[Clock, ...]]:
    """Read the clocks at an update, and advance them.

    Args:
      clocks: one clock per group.
      gap: updates between refreshes, at least 1; may be traced.
      is_first: boolean scalar, True at the first update.

    Returns:
      (ticks, clocks): the readings at this update and the advanced clocks.
    """
    ticks, moved = [], []
    for clock in clocks:
        passed = clock.age >= gap
        # An offset may expire at the first update, which draws subspace 0 in any case.
        refresh = clock.refresh + (passed & ~is_first)
        ticks.append(Tick(passed | is_first, clock.refresh, refresh))
        moved.append(Clock(jnp.where(passed, 0, clock.age) + 1, refresh))
    return tuple(ticks), tuple(moved)


def expire_clock(clock: Clock) -> Clock:
    """Return a clock whose next update is a refresh."""
    # The largest int32: at least any gap. `advance_clocks` resets it before adding 1.
    return clock._replace(age=jnp.full_like(clock.age, 2**31 - 1))


class RefreshRule(NamedTuple):
    """A rule that renews a state when a refresh is due."""

    renew: Callable[..., optax.OptState]
    """(due, state, fresh=fresh state, carried=function that returns the carried state)
    -> state; `due` is a boolean scalar."""


class Carries(NamedTuple):
    """Functions that move one kept part from the old basis to the new one."""

    shape: tuple[int, ...]
    """Shape of the kept part."""
    moments: Carry
    squares: Carry


def _reset(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del carried
    # Keep the state's types, even if gradients and parameters have different types.
    return jax.tree.map(
        lambda new, old: jnp.where(due, jnp.astype(new, old.dtype), old), fresh, state
    )


def _keep(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del due, fresh, carried
    return state


def _reproject(due: jax.Array, state: PyTree, *, fresh: PyTree, carried: Any) -> PyTree:
    del fresh
    # cond, not where: both bases are recomputed only when a refresh is due.
    return jax.lax.cond(due, carried, lambda: state)


RESET = RefreshRule(_reset)
KEEP = RefreshRule(_keep)
REPROJECT = RefreshRule(_reproject)


def carry_state(state: optax.OptState, carries: PyTree) -> optax.OptState:
    """Carry all arrays of a state that have the path and shape of a kept part.

    Args:
      state: state of a transformation on a tree of kept parts.
      carries: the same tree with `Carries` instead of arrays.

    Returns:
      The state with these arrays carried; all others, such as counts, are unchanged.
    """
    by_path = jax.tree.leaves_with_path(carries, is_leaf=_is_carries)
    # `x/a` also ends with `a`: try the longest path first.
    by_path.sort(key=lambda pair: -len(pair[0]))

    def carry(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        for ending, part in by_path:
            start = len(path) - len(ending)
            if start >= 0 and path[start:] == ending and leaf.shape == part.shape:
                # The component before the parameter's path is the field of the state.
                field = getattr(path[start - 1], "name", "") if start else ""
                move = part.squares if field in SQUARE_FIELDS else part.moments
                # Moments may be narrower than the basis (`mu_dtype`).
                moved: jax.Array = move(leaf).astype(leaf.dtype)
                return moved
        return leaf

    return jax.tree.map_with_path(carry, state)


def _is_carries(x: Any) -> bool:
    return isinstance(x, Carries)
