"""Placement of FRUGAL's state on the devices that hold the parameters.

A kept part has the rank of its array but fewer entries along one axis, which the shards
of the array may not divide. `fit_spec` then moves the mesh axes to another axis of the
same array, so the state of a sharded array is sharded into as many pieces, and each
device keeps its share:

    (1000, 16) cut by P("x", None) over 8 devices keeps (250, 16): P(None, "x")

Inside a program, only meshes with explicit axes expose the sharding of an array; there,
`free_axis` and `place` request the movement of data. On other meshes the compiler
derives it from the shardings of the program's inputs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from lostjax.typing import PyTree

Spec = jax.sharding.PartitionSpec


def state_shardings(tx: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Derive the shardings of an optimiser's state from those of the parameters.

    Use them as `out_shardings` of a compiled `init` or update, and to restore a
    checkpoint. An array of the state follows the parameter whose path ends its own
    path. Mesh axes that do not divide an axis of the state move to another one, so no
    part of the state of a sharded parameter is replicated unless none of its axes can
    be divided. All other arrays, such as counts, are replicated.

    Args:
      tx: any optax transformation.
      params: a tree of arrays, or of `jax.ShapeDtypeStruct` with a sharding. Every
        sharding is a `NamedSharding`, and all are on one mesh.

    Returns:
      A tree of `NamedSharding` with the structure of `tx.init(params)`.

    Raises:
      ValueError: if a parameter has no `NamedSharding`.

    Example:
      >>> shardings = lostjax.optim.state_shardings(tx, params)
      >>> state = jax.jit(tx.init, out_shardings=shardings)(params)
    """
    known = jax.tree.leaves_with_path(params)
    for path, leaf in known:
        if not isinstance(getattr(leaf, "sharding", None), NamedSharding):
            name = jax.tree_util.keystr(path) or "the array"
            raise ValueError(f"params: {name} has no NamedSharding")
    # Without shardings, so that meshes with explicit axes need not be the current one.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)

    def of(leaf: Any, like: Any) -> NamedSharding:
        mesh = known[0][1].sharding.mesh
        if like is None:
            return NamedSharding(mesh, Spec())
        return NamedSharding(mesh, fit_spec(like.sharding.spec, leaf.shape, mesh.shape))

    return match_params(of, jax.eval_shape(tx.init, shapes), params)


def fit_spec(spec: Spec, shape: Sequence[int], sizes: Mapping[str, int]) -> Spec:
    """Fit the partition spec of an array to a smaller array of the same rank.

    Args:
      spec: spec of the array, at most one entry per axis.
      shape: shape of the smaller array.
      sizes: mesh axis to number of devices.

    Returns:
      A spec whose mesh axes divide `shape`. A mesh axis that no longer divides its axis
      moves to the axis of the array with the most entries per device that it divides;
      it is dropped only if there is none.
    """
    placed: list[list[str]] = [[] for _ in shape]
    local, homeless = list(shape), []

    def put(name: str, axis: int) -> bool:
        if local[axis] % sizes[name]:
            return False
        if sizes[name] == 1:
            return True
        placed[axis].append(name)
        local[axis] //= sizes[name]
        return True

    for axis, entry in enumerate(spec):
        for name in mesh_axes(entry):
            if not put(name, axis):
                homeless.append(name)
    for name in homeless:
        # The longest axis first; of equal ones the last, which is contiguous.
        order = sorted(range(len(shape)), key=lambda a: (-local[a], -a))
        any(put(name, axis) for axis in order)
    return Spec(*(_entry(names) for names in placed))


def match_params(f: Any, state: PyTree, params: PyTree) -> PyTree:
    """Apply a function to the arrays of a state and the parameters that they follow.

    Args:
      f: `f(leaf, like) -> value`; `like` is the leaf of `params` whose path ends the
        leaf's path, whose rank is the same, and which is at least as long along every
        axis; None if there is none.
      state: state of a transformation of a tree like `params`.
      params: a tree of anything with a shape.

    Returns:
      The tree of values.
    """
    # `x/a` also ends with `a`: try the longest path first.
    known = sorted(jax.tree.leaves_with_path(params), key=lambda pair: -len(pair[0]))

    def find(path: tuple[Any, ...], leaf: Any) -> Any:
        for ending, like in known:
            start = len(path) - len(ending)
            if start < 0 or path[start:] != ending or len(like.shape) != leaf.ndim:
                continue
            fits = (a <= b for a, b in zip(leaf.shape, like.shape, strict=True))
            if leaf.ndim and all(fits):
                return f(leaf, like)
        return f(leaf, None)

    return jax.tree.map_with_path(find, state)


def explicit_spec(x: Any) -> Spec | None:
    """Return the spec of an array on a mesh with explicit axes, else None."""
    spec: Any = getattr(getattr(jax.typeof(x), "sharding", None), "spec", ())
    return spec if any(entry is not None for entry in spec) else None


def place(x: jax.Array, spec: Spec | None) -> jax.Array:
    """Reshard an array, on meshes with explicit axes; None for fully replicated."""
    mine = explicit_spec(x)
    if mine is None and spec is None:
        return x
    full = [*(spec or ())] + [None] * x.ndim
    if [*(mine or ())] + [None] * (x.ndim - len(mine or ())) == full[: x.ndim]:
        return x
    moved: jax.Array = jax.sharding.reshard(x, Spec(*full[: x.ndim]))
    return moved


def place_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shard an array like another one that it is broadcast with.

    A selection on a mesh with explicit axes takes equal shardings only.
    """
    spec = explicit_spec(like)
    if spec is None:
        return x
    pairs = zip(x.shape, like.shape, spec, strict=True)
    return place(x, Spec(*(entry if a == b else None for a, b, entry in pairs)))


def free_axis(
    x: jax.Array, axis: int, *, parts: int, onto: Iterable[int] = ()
) -> jax.Array:
    """Move the shards of an axis that would cut its parts to other axes.

    Args:
      x: any array; only the sharding of a mesh with explicit axes is visible.
      axis: the axis, counted from the front.
      parts: number of equal parts of the axis that must not be cut.
      onto: axes to move the shards to, the first choice first. Shards that fit on none
        of them are gathered.

    Returns:
      The array, resharded if its shards do not hold whole parts.
    """
    spec = explicit_spec(x)
    names = mesh_axes(spec[axis]) if spec is not None and axis < len(spec) else ()
    if spec is None or not names:
        return x
    sizes = jax.typeof(x).sharding.mesh.shape
    if parts % math.prod(sizes[name] for name in names) == 0:
        return x
    entries = [*spec] + [None] * (x.ndim - len(spec))
    entries[axis] = None
    for name in names:
        for other in onto:
            held = (*mesh_axes(entries[other]), name)
            if x.shape[other] % math.prod(sizes[n] for n in held) == 0:
                entries[other] = _entry(held)
                break
    return place(x, Spec(*entries))


def mesh_axes(entry: Any) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a spec."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def make_zeros(leaf: Any, shape: Sequence[int], dtype: Any) -> jax.Array | None:
    """Make zeros of a smaller shape that are sharded like an array.

    Args:
      leaf: the array, or a `jax.ShapeDtypeStruct`.
      shape: shape of the zeros, of the same rank.
      dtype: their type.

    Returns:
      The zeros; None if the leaf is traced and its sharding is not visible.
    """
    spec = explicit_spec(leaf)
    if spec is not None:
        sizes = jax.typeof(leaf).sharding.mesh.shape
        return jnp.zeros(shape, dtype, out_sharding=fit_spec(spec, shape, sizes))
    if isinstance(leaf, jax.core.Tracer):
        return None
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and isinstance(
        sharding.mesh, jax.sharding.Mesh
    ):
        fitted = fit_spec(sharding.spec, shape, sharding.mesh.shape)
        return jnp.zeros(shape, dtype, device=NamedSharding(sharding.mesh, fitted))
    # As zeros_like does: on the device of an array that was put there on purpose.
    is_put = sharding is not None and getattr(leaf, "committed", False)
    return jnp.zeros(shape, dtype, device=sharding if is_put else None)


def follow_params(state: PyTree, params: PyTree) -> PyTree:
    """Make the arrays of a new state depend on parameters of the same path and shape.

    This matters in a compiled `init` only, and not on meshes with explicit axes.
    """

    def follow(leaf: jax.Array, like: Any) -> jax.Array:
        is_hidden = isinstance(like, jax.core.Tracer) and explicit_spec(like) is None
        if not is_hidden or leaf.shape != like.shape:
            return leaf
        moved: jax.Array = leaf + zero_of(like).astype(leaf.dtype)
        return moved

    return match_params(follow, state, params)


def zero_of(x: jax.Array) -> jax.Array:
    """Return zeros that depend on an array, so that the compiler shards them like it.

    `jnp.zeros_like` in a compiled `init` is a constant, which lands on one device.
    """
    # Not finite times 0 would be NaN. A compiler may not replace a float times 0.
    return jnp.where(jnp.isfinite(x), x, 0) * jnp.zeros((), x.dtype)


def _entry(names: Sequence[str]) -> Any:
    if len(names) == 1:
        return names[0]
    return tuple(names) or None
