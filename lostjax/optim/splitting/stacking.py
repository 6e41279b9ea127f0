"""Trees whose layers lie apart, as if they were scanned: equal layers, stacked.

A model that is not scanned holds `layers_0`, `layers_1`, .. of equal shapes. Here a
transformation sees them as one stack (L, M, N), as `optim.blocks` needs it.

It costs a copy of the gradients of these arrays and one of their updates at each step;
a scanned model pays nothing.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.typing import PyTree


def stack_layers(
    inner: optax.GradientTransformation, *, layer: str = r"(\d+)"
) -> optax.GradientTransformationExtraArgs:
    """Let a transformation see equal layers as stacks.

    Arrays of two axes or more whose paths differ in nothing but the layer's number, and
    whose shapes are equal, are stacked in the order of their numbers. The tree that
    `inner` sees is a flat dict from path (a stack's is that of its first layer, such as
    `layers_0/attn/query/kernel`) to array; a tree of labels or masks that is given to
    it must be one too, and a function of the parameters is best.

    Args:
      inner: the transformation, such as `frugal(subspace=blocks())`.
      layer: pattern, searched in each path, whose one group is the layer's number; by
        default the first number there is.

    Returns:
      The transformation. An empty tree is passed on as it is.

    Raises:
      ValueError: where `layer` has no group or more than one.
    """
    pattern = re.compile(layer)
    if pattern.groups != 1:
        raise ValueError(f"layer={layer!r}: must have one group, the layer's number")
    tx = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> optax.OptState:
        return tx.init(_stack(params, _find_stacks(params, pattern)))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        stacks = _find_stacks(updates, pattern)
        seen = None if params is None else _stack(params, stacks)
        moved, state = tx.update(_stack(updates, stacks), state, seen, **extra)
        return _unstack(moved, stacks, like=updates), state

    return optax.GradientTransformationExtraArgs(init, update)


class _Stack(NamedTuple):
    name: str
    """Path of the first layer's array."""
    members: tuple[int, ...]
    """Indices of leaves, in the order of layers; one where nothing is stacked."""


def _find_stacks(tree: PyTree, pattern: re.Pattern[str]) -> list[_Stack]:
    found: dict[Any, list[tuple[int, int, str]]] = {}
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        match = pattern.search(name)
        if match is None or np.ndim(leaf) < 2:
            found[name] = [(0, i, name)]
            continue
        start, stop = match.span(1)
        key = (name[:start], name[stop:], np.shape(leaf))
        found.setdefault(key, []).append((int(match[1]), i, name))
    stacks = []
    for layers in found.values():
        layers.sort()
        stacks.append(_Stack(layers[0][2], tuple(i for _, i, _ in layers)))
    return stacks


def _stack(tree: PyTree, stacks: list[_Stack]) -> PyTree:
    leaves = jax.tree.leaves(tree)
    if not leaves:  # such as the tree that optax.tree.map_params makes
        return tree

    def gather(members: tuple[int, ...]) -> Any:
        if len(members) == 1:
            return leaves[members[0]]
        return _stack_arrays([leaves[i] for i in members])

    return {stack.name: gather(stack.members) for stack in stacks}


def _stack_arrays(arrays: list[Any]) -> Any:
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in arrays):
        return jax.eval_shape(lambda *x: jnp.stack(x), *arrays)
    return jnp.stack(arrays)


def _unstack(stacked: PyTree, stacks: list[_Stack], *, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    if not leaves:
        return stacked
    for stack in stacks:
        if len(stack.members) == 1:
            leaves[stack.members[0]] = stacked[stack.name]
            continue
        for place, i in enumerate(stack.members):
            leaves[i] = stacked[stack.name][place].astype(leaves[i].dtype)
    return jax.tree.unflatten(structure, leaves)
