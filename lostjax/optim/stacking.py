"""Stacks of equal layers for a model whose layers are separate.

A model without a scan has parameters `layers_0`, `layers_1`, ... of equal shapes. This
module presents them to a transformation as one stack (L, M, N), which `optim.blocks`
needs.

Cost: at each step, a copy of the gradients of these arrays and a copy of their updates.
A scanned model has no such cost.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.optim.splitting.placement import explicit_spec
from lostjax.typing import PyTree


def stack_layers(
    inner: optax.GradientTransformation, *, layer: str = r"(\d+)"
) -> optax.GradientTransformationExtraArgs:
    """Wrap a transformation so that it sees equal layers as stacks.

    Arrays of rank 2 or more are stacked in order of their layer numbers if their paths
    differ only in the layer number and their shapes are equal. The inner transformation
    sees a flat dict from path to array; the path of a stack is that of its first layer,
    such as `layers_0/attn/query/kernel`. A tree of labels or masks that is passed to
    `inner` must have this form too; prefer a function of the parameters.

    Args:
      inner: the transformation, such as `frugal(subspace=blocks())`.
      layer: pattern, searched in each path, whose only group is the layer number; by
        default the first number in the path.

    Returns:
      The transformation. It leaves an empty tree unchanged.

    Raises:
      ValueError: if `layer` does not have exactly one group.
    """
    pattern = re.compile(layer)
    if pattern.groups != 1:
        raise ValueError(f"layer={layer!r}: must have one group, the layer number")
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
    """Indices of leaves in order of layers; a single one if nothing is stacked."""


def _find_stacks(tree: PyTree, pattern: re.Pattern[str]) -> list[_Stack]:
    found: dict[Any, list[tuple[int, int, str]]] = {}
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        match = pattern.search(name)
        # Vectors are not matrices: they keep their own path.
        if match is None or np.ndim(leaf) < 2:
            found[name] = [(0, i, name)]
            continue
        start, stop = match.span(1)
        # The path without its number: equal for the same array of all layers.
        key = (name[:start], name[stop:], np.shape(leaf))
        found.setdefault(key, []).append((int(match[1]), i, name))
    stacks = []
    for layers in found.values():
        # Sort by number: as text, `layers_10` precedes `layers_2`.
        layers.sort()
        stacks.append(_Stack(layers[0][2], tuple(i for _, i, _ in layers)))
    return stacks


def _stack(tree: PyTree, stacks: list[_Stack]) -> PyTree:
    leaves = jax.tree.leaves(tree)
    if not leaves:  # such as the tree that optax.tree.map_params builds
        return tree

    def gather(members: tuple[int, ...]) -> Any:
        if len(members) == 1:
            return leaves[members[0]]
        return _stack_arrays([leaves[i] for i in members])

    return {stack.name: gather(stack.members) for stack in stacks}


def _stack_arrays(arrays: list[Any]) -> Any:
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in arrays):
        # Shapes stay shapes, so that state can be counted without arrays.
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
        layers = _split_layers(stacked[stack.name])
        for i, layer in zip(stack.members, layers, strict=True):
            # jnp.stack promotes mixed types: give each layer back its own.
            leaves[i] = layer.astype(leaves[i].dtype)
    return jax.tree.unflatten(structure, leaves)


def _split_layers(x: jax.Array) -> list[jax.Array]:
    """Split a stack: (L, ...) -> L arrays (...), like `jnp.unstack`.

    XLA compiles a slice at a constant place once for every place, which takes 22 ms
    each on a CPU. At places that it cannot know, all slices are one program.
    """
    n_layers = x.shape[0]
    # Slices of integers are not what this is for; a mesh's shards cannot be sliced.
    if explicit_spec(x) is not None or not jnp.issubdtype(x.dtype, jnp.floating):
        return [x[i] for i in range(n_layers)]
    first = x[(slice(0, 2), *(0,) * (x.ndim - 1))].astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(first, jnp.uint32)
    # Zeros, because no sign is left. Two of them: XLA would move a sum with one number
    # to where it sees the place.
    zeros = jnp.minimum((bits >> 1).astype(jnp.int32), 0)
    places = (zeros + np.array([i, i + 1], np.int32) for i in range(n_layers))
    return [jax.lax.dynamic_index_in_dim(x, at[0], keepdims=False) for at in places]
