"""The head and what follows it, some positions at a time.

Logits are the largest array of a step: 4 V bytes a position, and as much again for
their gradient. Nothing after the head mixes positions but sums, so it is done for a
part of them at a time, and the logits of one part are all that there is:

    total = sum_parts f(head, states_part)

The gradient of a part is taken with its value, in the same pass: the sum's cotangent
only scales it. No product is made twice, as checkpoints would; the price is one
addition of the head's gradient a part. On a CPU (D 256, V 4096, 4096 positions in 4
parts) head and loss take .7 of the time that they take in one piece, and about a third
of the memory.

Every shard of the batch sums the head's gradient for itself, and the shards' sums are
added once at the end: within the loop nothing crosses devices but the loop's own sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, PyTree

Part = Callable[[PyTree, jax.Array, PyTree], tuple[jax.Array, tuple[PyTree, PyTree]]]
"""(head, states_BTD, rows) -> total, (sums, outputs): sums are scalars, outputs arrays
(B, T, ...); of any rows and positions."""

POSITIONS = 1024
"""Fewest positions of a part on each device: fewer make the products thin."""


def sum_over_positions(
    part: Part,
    head: PyTree,
    states_BTD: Float[Array, "B T D"],
    rows: PyTree,
    *,
    shards: int = 1,
) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
    """Apply a function to all positions, a part at a time, and sum what it gives.

    Args:
      part: what is done; differentiable by its first two arguments. It may close over
        what is not differentiated.
      head: its parameters; `part` gets them in the states' type, rounded once, and
        their gradient is summed in their own.
      states_BTD: what the head scores.
      rows: arrays (B, T, ...) that go with them, without gradient.
      shards: contiguous parts of the rows that lie on different devices; divides B.

    Returns:
      (total, (sums, outputs)) over all positions. Only the total has a gradient, of
      reverse mode alone.
    """
    made: tuple[jax.Array, tuple[PyTree, PyTree]]
    made = _sum(part, shards, head, states_BTD, rows)
    return made


def count_parts(shape: tuple[int, ...], *, shards: int) -> int:
    """Find into how many parts T positions are cut: the most that divide T and leave
    `POSITIONS`, and D, to each device; 1 where none do.

    A part moves its logits, 4 V bytes a position, several times, and the head and its
    gradient, of D V numbers, as well: with fewer positions than D these are the most.

    Args:
      shape: (B, T, D).
      shards: of the rows.
    """
    n_rows, length = shape[0] // shards, shape[1]
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
    """Take the gradient, too, while the logits are there."""
    gradient = jax.value_and_grad(part, argnums=(0, 1), has_aux=True)

    def one(cast: PyTree, states: jax.Array, rows: PyTree) -> Any:
        (total, (sums, outputs)), (by_head, by_states) = gradient(cast, states, rows)
        by_head = jax.tree.map(lambda x, like: x.astype(like.dtype), by_head, head)
        return (total, sums, by_head), (outputs, by_states)

    made = _scan(one, _cast(head, states), (states, rows), shards=shards)
    (total, sums, by_head), (outputs, by_states) = made
    return (total, (sums, outputs)), (by_head, by_states)


def _cast(head: PyTree, states: jax.Array) -> PyTree:
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
    """Sum the first of what `one` gives, and join the second by row and position."""
    shape = by_position[0].shape
    parts = count_parts(shape, shards=shards)
    if parts == 1:
        return one(head, *by_position)
    grid = (shards, shape[0] // shards, parts, shape[1] // parts)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*grid, *x.shape[2:]), 2, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 2).reshape(*shape[:2], *x.shape[4:])

    # A copy of the head for every shard: its gradients stay apart, each at home.
    heads = jax.tree.map(lambda x: jnp.broadcast_to(x, (shards, *x.shape)), head)
    split_parts = jax.tree.map(split, by_position)
    each = jax.vmap(one)
    first = jax.tree.map(lambda x: x[0], split_parts)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(each, heads, *first)[0],
    )

    def add(sums: PyTree, now: tuple[jax.Array, PyTree]) -> tuple[PyTree, PyTree]:
        more, outputs = each(heads, *now)
        return jax.tree.map(jnp.add, sums, more), outputs

    sums, outputs = jax.lax.scan(add, zeros, split_parts)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), jax.tree.map(join, outputs)
