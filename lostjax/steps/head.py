"""The head and everything after it, evaluated in parts along the positions.

Logits are the largest array of a step: 4 V bytes per position, and as much again for
their gradient. After the head, positions interact only through sums. So the head is
evaluated for one part of the positions at a time, and only the logits of that part
exist:

    total = sum_parts f(head, states_part)

The gradient of a part is computed together with its value, because the cotangent of the
sum only scales it. No product is computed twice, as it would be with checkpointing; the
price is one addition of the head's gradient per part. On a CPU (D 256, V 4096, 4096
positions in 4 parts) head and loss take .7 of the time of a single evaluation, and
about a third of its memory.

Each shard of the batch accumulates its own gradient of the head, and the shards'
gradients are added once at the end. Inside the loop, devices exchange nothing except
the scalar sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, PyTree

Part = Callable[[PyTree, jax.Array, PyTree], tuple[jax.Array, tuple[PyTree, PyTree]]]
"""(head, states_BTD, rows) -> total, (sums, outputs), for any rows and positions: sums
are scalars, outputs are arrays (B, T, ...)."""

POSITIONS = 1024
"""Fewest positions of a part on each device; fewer make the products too thin."""


def sum_over_positions(
    part: Part,
    head: PyTree,
    states_BTD: Float[Array, "B T D"],
    rows: PyTree,
    *,
    shards: int = 1,
) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
    """Apply a function to all positions, one part at a time, and sum its results.

    Args:
      part: the function; differentiable in its first two arguments. It may close over
        constants.
      head: parameters of the head. `part` receives them cast once to the type of the
        states; their gradient accumulates in their own type.
      states_BTD: final states (B, T, D), the input of the head.
      rows: arrays (B, T, ...) that accompany the states; no gradient.
      shards: number of contiguous parts of the rows on different devices; must divide
        B.

    Returns:
      (total, (sums, outputs)) over all positions. Only the total has a gradient, in
      reverse mode only.
    """
    made: tuple[jax.Array, tuple[PyTree, PyTree]]
    made = _sum(part, shards, head, states_BTD, rows)
    return made


def count_parts(shape: tuple[int, ...], *, shards: int) -> int:
    """Compute the number of parts into which T positions are cut.

    It is the largest divisor of T that leaves at least `POSITIONS` and at least D
    positions to each device, or 1 if there is none. A part moves its logits (4 V bytes
    per position) several times, and also the head and its gradient (D V numbers each);
    with fewer than D positions the latter dominate.

    Args:
      shape: (B, T, D).
      shards: number of shards of the rows.

    Returns:
      The number of parts, at least 1.
    """
    n_rows, length = shape[0] // shards, shape[1]
    # At least D positions: otherwise moving the head costs more than its product.
    least = max(POSITIONS, shape[2])
    fit = (n for n in range(length, 1, -1) if length % n == 0)
    return next((n for n in fit if n_rows * (length // n) >= least), 1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(part: Part, shards: int, head: PyTree, states: jax.Array, rows: PyTree) -> Any:
    def one(head: PyTree, states: jax.Array, rows: PyTree) -> Any:
        total, (sums, outputs) = part(head, states, rows)
        return (total, sums), outputs

    cast = _cast(head, states)
    (total, sums), outputs = _scan(one, cast, (states, rows), shards=shards)
    return total, (sums, outputs)


def _forward(
    part: Part, shards: int, head: PyTree, states: jax.Array, rows: PyTree
) -> Any:
    """Compute values and gradients in one pass, while the logits exist."""
    gradient = jax.value_and_grad(part, argnums=(0, 1), has_aux=True)

    def one(cast: PyTree, states: jax.Array, rows: PyTree) -> Any:
        (total, (sums, outputs)), (by_head, by_states) = gradient(cast, states, rows)
        # Accumulate in the parameters' type: many bfloat16 additions would lose digits.
        by_head = jax.tree.map(lambda x, like: x.astype(like.dtype), by_head, head)
        return (total, sums, by_head), (outputs, by_states)

    made = _scan(one, _cast(head, states), (states, rows), shards=shards)
    (total, sums, by_head), (outputs, by_states) = made
    return (total, (sums, outputs)), (by_head, by_states)


def _cast(head: PyTree, states: jax.Array) -> PyTree:
    # Cast once, outside the loop, instead of once per part.
    return jax.tree.map(lambda x: x.astype(states.dtype), head)


def _backward(part: Part, shards: int, kept: Any, cotangents: Any) -> Any:
    del part, shards
    scale, _ = cotangents
    by_head, by_states = jax.tree.map(lambda x: (scale * x).astype(x.dtype), kept)
    return by_head, by_states, None


_sum.defvjp(_forward, _backward)


def _scan(
    one: Callable[..., tuple[PyTree, PyTree]],
    head: PyTree,
    by_position: tuple[jax.Array, PyTree],
    *,
    shards: int,
) -> tuple[PyTree, PyTree]:
    """Run `one` over parts; sum its first result, join its second by position."""
    shape = by_position[0].shape
    parts = count_parts(shape, shards=shards)
    if parts == 1:
        return one(head, *by_position)
    grid = (shards, shape[0] // shards, parts, shape[1] // parts)

    # Split rows by shard first: each part then takes positions from all devices alike.
    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*grid, *x.shape[2:]), 2, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 2).reshape(*shape[:2], *x.shape[4:])

    # One copy of the head per shard: each shard then accumulates its gradient locally,
    # and devices communicate once after the loop instead of once per part.
    heads = jax.tree.map(lambda x: jnp.broadcast_to(x, (shards, *x.shape)), head)
    split_parts = jax.tree.map(split, by_position)
    each = jax.vmap(one)
    first = jax.tree.map(lambda x: x[0], split_parts)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        # Types of the sums from shapes alone: no part is computed for them.
        jax.eval_shape(each, heads, *first)[0],
    )

    def add(sums: PyTree, now: tuple[jax.Array, PyTree]) -> tuple[PyTree, PyTree]:
        more, outputs = each(heads, *now)
        return jax.tree.map(jnp.add, sums, more), outputs

    # A scan, so that the buffers of the logits are reused by the next part.
    sums, outputs = jax.lax.scan(add, zeros, split_parts)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), jax.tree.map(join, outputs)
