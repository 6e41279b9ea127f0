"""FRUGAL against NumPy, over several refreshes, and GaLore against optax's.

The reference takes the choice (which entries, which basis) from the library and does
all else itself, in float64: Adam with its bias corrections and resets, moments moved
between bases, the part without a state.
"""

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax import optim
from lostjax.optim.splitting.subspace import start_draw
from lostjax.trees import path_text

B1, B2, EPS, GAP, STEPS, SEED = 0.8, 0.95, 1e-8, 3, 8, 5
SHAPES = {"stack": {"w": (3, 8, 6)}, "odd": (5, 7), "norm": {"scale": (4,)}}
STACKS = {"stack": {"w": (5, 4, 3)}, "norm": {"scale": (4,)}}

SUBSPACES = {
    # name: (subspace, density, axis along which entries are kept, shapes)
    "blocks": (optim.blocks(), 0.4, 0, STACKS),
    "mirror": (optim.blocks(optim.mirror_order), 0.4, 0, STACKS),
    "columns": (optim.columns(), 0.4, -1, SHAPES),
    "most columns": (optim.columns(), 0.7, -1, SHAPES),
    "rows": (optim.rows(), 0.3, -2, SHAPES),
    "coordinates": (optim.coordinates(), 0.4, -2, SHAPES),
    "svd": (optim.gradient_svd(), 0.4, None, SHAPES),
    "orthonormal": (optim.random_orthonormal(), 0.4, None, SHAPES),
    "longer side": (
        optim.random_orthonormal(side=optim.longer_side),
        0.4,
        None,
        SHAPES,
    ),
}
RULES = {"reset": optim.RESET, "keep": optim.KEEP, "reproject": optim.REPROJECT}
FREE = {
    "sgd": (optax.identity(), lambda g: g),
    "none": (optax.set_to_zero(), np.zeros_like),
}
ADAM = optax.scale_by_adam(B1, B2, EPS)


class Adam(NamedTuple):
    """Moments that may be told to start again."""

    m: np.ndarray
    v: np.ndarray
    t: int = 0

    def step(self, g):
        m, v, t = B1 * self.m + (1 - B1) * g, B2 * self.v + (1 - B2) * g**2, self.t + 1
        direction = (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + EPS)
        return direction, Adam(m, v, t)

    def move(self, rule, moments, squares, slots):
        """Refresh, given how moments and their squares move, and how places do."""
        if rule == "reset":
            return Adam(0 * self.m, 0 * self.v)
        if rule == "keep":
            return Adam(slots(self.m), slots(self.v), self.t)
        return Adam(moments(self.m), squares(self.v), self.t)


def expected_by_entries(grads, slots, *, axis, rule, free):
    """Moments of the full shape, of which those in a mask count.

    `slots` has the index along the axis of every entry of the kept part.
    """
    masks = [mask_of(s, shape=grads[0].shape, axis=axis) for s in slots]
    adam, updates = Adam(np.zeros(grads[0].shape), np.zeros(grads[0].shape)), []
    for t, g in enumerate(grads):
        mask = masks[t // GAP]
        if t and t % GAP == 0:

            def keep(x):
                return x * mask  # noqa: B023

            old, new = slots[t // GAP - 1 : t // GAP + 1]
            move = functools.partial(move_slots, old=old, new=new, axis=axis)
            adam = adam.move(rule, keep, keep, move)
        direction, adam = adam.step(g * mask)
        updates.append(mask * direction + free(g * ~mask))
    return updates


def move_slots(x, old, new, axis):
    """Hand on from the s-th kept entry of each line to the s-th."""
    moved = np.zeros_like(x)
    np.put_along_axis(moved, new, np.take_along_axis(x, old, axis), axis)
    return moved


def mask_of(slots, *, shape, axis):
    mask = np.zeros(shape, bool)
    np.put_along_axis(mask, slots, True, axis)
    return mask


def expected_by_basis(grads, bases, *, rule, free):
    """Moments in the coordinates of orthonormal columns; rows are transposed."""
    if grads[0].shape[-2] != bases[0].shape[-2]:
        grads, bases = map(np.matrix_transpose, grads), map(np.matrix_transpose, bases)
        turned = expected_by_basis(list(grads), list(bases), rule=rule, free=free)
        return [np.matrix_transpose(u) for u in turned]
    zeros = np.zeros(np.matrix_transpose(bases[0]).shape[:-1] + grads[0].shape[-1:])
    adam, updates = Adam(zeros, zeros), []
    for t, g in enumerate(grads):
        basis = bases[t // GAP]
        down = np.matrix_transpose(basis)
        if t and t % GAP == 0:
            cosines = down @ bases[t // GAP - 1]
            adam = adam.move(
                rule,
                functools.partial(np.matmul, cosines),
                functools.partial(np.matmul, cosines**2),
                lambda x: x,
            )
        direction, adam = adam.step(down @ g)
        updates.append(basis @ direction + free(g - basis @ (down @ g)))
    return updates


def expected_by_adam(grads):
    adam, updates = Adam(np.zeros(grads[0].shape), np.zeros(grads[0].shape)), []
    for g in grads:
        direction, adam = adam.step(g)
        updates.append(direction)
    return updates


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def make_gradients(shapes):
    rng = np.random.default_rng(0)

    def draw(shape):
        return rng.normal(size=shape).astype(np.float32)

    return [jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(STEPS)]


@functools.cache
def choices(name):
    """The library's choice at every refresh, slots or bases, by the leaf's name."""
    subspace, density, axis, shapes = SUBSPACES[name]

    def choose(leaf, g, refresh):
        cut = subspace.cut(g.shape, density)
        draw = start_draw(SEED, refresh).at_leaf(zlib.crc32(leaf.encode()))
        basis = cut.choose(g, draw)
        if axis is None:
            return basis
        return cut.restrict(
            jax.lax.broadcasted_iota(int, g.shape, axis % g.ndim), basis
        )

    @jax.jit
    def choose_all(grads):
        return {
            leaf: [choose(leaf, g, refresh) for refresh, g in enumerate(series)]
            for leaf, series in grads.items()
            if series[0].ndim > 1
        }

    return jax.device_get(choose_all(by_name(make_gradients(shapes)[::GAP])))


def align(bases):
    """Turn each singular vector to the side of its predecessor."""
    aligned = bases[:1]
    axis = -2 if bases[0].shape[-2] >= bases[0].shape[-1] else -1
    for basis in bases[1:]:
        cosine = np.sum(basis * aligned[-1], axis, keepdims=True)
        aligned.append(np.where(cosine < 0, -basis, basis))
    return aligned


def by_name(trees):
    """Turn a list of trees into lists by the leaf's name."""
    named = [
        {path_text(path): x for path, x in jax.tree.leaves_with_path(tree)}
        for tree in trees
    ]
    return {name: [tree[name] for tree in named] for name in named[0]}


def run(tx, grads):
    """Updates of a transformation on a list of gradients, by one compiled program."""
    traces = []

    @jax.jit
    def update(g, state):
        traces.append(1)
        return tx.update(g, state)

    state, updates = jax.jit(tx.init)(grads[0]), []
    for g in grads:
        u, state = update(g, state)
        updates.append(u)
    assert len(traces) == 1
    return updates, state


def run_by_operation(tx, grads):
    """The same, nothing fused: Adam alone has other roundings on another tree."""
    with jax.disable_jit():
        state, updates = tx.init(grads[0]), []
        for g in grads:
            u, state = tx.update(g, state)
            updates.append(u)
    return updates


def check(tx, name, rule, free):
    subspace, _, axis, shapes = SUBSPACES[name]
    grads = make_gradients(shapes)
    updates = by_name(run(tx, grads)[0])
    for leaf, series in by_name(grads).items():
        series = [g.astype(np.float64) for g in series]
        if series[0].ndim == 1:
            expected = expected_by_adam(series)
        elif axis is None:
            bases = [basis.astype(np.float64) for basis in choices(name)[leaf]]
            if subspace.stored:
                bases = align(bases)
            expected = expected_by_basis(series, bases, rule=rule, free=free)
        else:
            slots = choices(name)[leaf]
            expected = expected_by_entries(
                series, slots, axis=axis, rule=rule, free=free
            )
        for t, (u, e) in enumerate(zip(updates[leaf], expected, strict=True)):
            np.testing.assert_allclose(
                u, e, rtol=2e-5, atol=2e-6, err_msg=f"{leaf} at update {t}"
            )


CASES = [
    (name, rule)
    for name in ("blocks", "columns", "rows", "coordinates", "svd", "orthonormal")
    for rule in RULES
] + [("mirror", "reset"), ("most columns", "keep"), ("longer side", "reproject")]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_updates_equal_numpy(name, rule):
    subspace, density, _, _ = SUBSPACES[name]
    tx = optim.scale_by_frugal(
        density=density,
        update_gap=GAP,
        subspace=subspace,
        state_full=ADAM,
        free_scale=0.5,
        on_refresh=RULES[rule],
        seed=SEED,
    )
    check(tx, name, rule, lambda g: 0.5 * np.sign(g))


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("name", ["blocks", "svd"])
def test_other_state_free_halves_equal_numpy(name, free):
    subspace, density, _, _ = SUBSPACES[name]
    transformation, formula = FREE[free]
    tx = optim.scale_by_frugal(
        density=density,
        update_gap=GAP,
        subspace=subspace,
        state_full=ADAM,
        state_free=transformation,
        seed=SEED,
    )
    check(tx, name, "reset", formula)


def test_galore_equals_optax():
    shapes = {"tall": (12, 8), "wide": (8, 10), "vector": (3,)}
    grads = make_gradients(shapes)
    for t in range(0, STEPS, GAP):
        # Optax's vectors may flip at a refresh, unless the gradient is a multiple.
        grads[t] = jax.tree.map(lambda g, t=t: g * 2.0**t, grads[0])
    ours = optim.scale_by_frugal(
        density=3 / 8,
        update_gap=GAP,
        subspace=optim.gradient_svd(side=optim.longer_side),
        state_free=optax.set_to_zero(),
        on_refresh=optim.KEEP,
    )
    theirs = optax.contrib.scale_by_galore(rank=3, update_proj_gap=GAP)
    for t, (a, b) in enumerate(
        zip(run(ours, grads)[0], run(theirs, grads)[0], strict=True)
    ):
        for name in shapes:
            np.testing.assert_allclose(
                a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} at {t}"
            )


def test_density_1_without_resets_is_adam_bit_for_bit():
    # NumPy arrays would let NumPy do some of the operations, with its own rounding.
    grads = jax.tree.map(jnp.asarray, make_gradients(SHAPES)[: GAP + 2])
    ours = optim.frugal(1e-3, density=1, on_refresh=optim.KEEP, update_gap=GAP)
    theirs = optax.adam(1e-3)
    jax.tree.map(
        np.testing.assert_array_equal,
        run_by_operation(ours, grads),
        run_by_operation(theirs, grads),
    )
    # Compiled, a product and a sum may become one operation in one of them only.
    jax.tree.map(
        functools.partial(np.testing.assert_array_max_ulp, maxulp=2),
        run(ours, grads)[0],
        run(theirs, grads)[0],
    )


@pytest.mark.parametrize(
    "subspace", [optim.columns(), optim.gradient_svd()], ids=["columns", "svd"]
)
def test_density_1_with_resets_is_adam_that_starts_again(subspace):
    grads = make_gradients(SHAPES)
    tx = optim.scale_by_frugal(
        density=1, update_gap=GAP, subspace=subspace, state_full=ADAM
    )
    updates, _ = run(tx, grads)
    series = [g["odd"].astype(np.float64) for g in grads]
    for t in range(0, STEPS, GAP):
        for u, e in zip(
            updates[t : t + GAP], expected_by_adam(series[t : t + GAP]), strict=True
        ):
            np.testing.assert_allclose(u["odd"], e, rtol=2e-5, atol=2e-6)


def test_density_0_is_sign_descent_and_adam_elsewhere():
    grads = make_gradients(SHAPES)
    tx = optim.scale_by_frugal(density=0, state_full=ADAM)
    updates, state = run(tx, grads)
    updates, grads = by_name(updates), by_name(grads)
    for name in ("stack/w", "odd"):
        np.testing.assert_array_equal(updates[name], np.sign(grads[name]))
    adam = expected_by_adam(np.float64(grads["norm/scale"]))
    np.testing.assert_allclose(updates["norm/scale"], adam, rtol=2e-5, atol=2e-6)
    # Two counts, and Adam's of the scale: no array of a matrix, not even an empty one.
    assert [x.shape for x in jax.tree.leaves(state)] == [(), (), (4,), (4,), ()]


def test_groups_refresh_one_after_the_other():
    shapes = {"a": (6, 4), "b": (6, 4), "c": (6, 4)}
    gap, groups = 6, 3
    rng = np.random.default_rng(1)
    grads = [
        jax.tree.map(
            lambda s: rng.normal(size=s).astype(np.float32), shapes, is_leaf=is_shape
        )
        for _ in range(14)
    ]
    tx = optim.scale_by_frugal(
        update_gap=gap, subspace=optim.gradient_svd(stagger=groups), density=0.5
    )
    update, state = jax.jit(tx.update), tx.init(grads[0])
    changed = {name: [] for name in shapes}
    for t, g in enumerate(grads):
        _, new = update(g, state)
        for name in shapes:
            if np.any(new.basis[name] != state.basis[name]):
                changed[name].append(t)
        state = new
    assert changed == {"a": [0, 6, 12], "b": [0, 4, 10], "c": [0, 2, 8]}
