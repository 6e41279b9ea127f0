"""Every subspace cuts a gradient in two, and chooses evenly, by seed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax import optim
from lostjax.optim.splitting.subspace import count_kept, start_draw

BY_ENTRY = {
    "blocks": (optim.blocks(), 0),
    "columns": (optim.columns(), 2),
    "rows": (optim.rows(), 1),
    "coordinates": (optim.coordinates(), 1),
}
BY_BASIS = {
    "svd": optim.gradient_svd(),
    "svd longer": optim.gradient_svd(side=optim.longer_side),
    "orthonormal": optim.random_orthonormal(),
    "orthonormal longer": optim.random_orthonormal(side=optim.longer_side),
}
DENSITIES = [0.3, 0.7, 0.99]
SHAPE = 8, 7, 10


def make_draw(seed, leaf, refresh):
    return start_draw(seed, refresh).at_leaf(leaf)


def make_gradient(shape=SHAPE, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def cut_at(subspace, density, *, g):
    """The cut of a gradient's shape, and all that it makes of the gradient."""
    cut, draw = subspace.cut(g.shape, density), make_draw(0, 1, 0)

    @jax.jit
    def make(g):
        basis = cut.choose(g, draw)
        kept = cut.restrict(g, basis)
        return basis, kept, cut.expand(kept, basis), cut.residual(g, kept, basis)

    return cut, *make(g)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", BY_ENTRY)
def test_entries_are_kept_or_left_exactly(name, density):
    subspace, axis = BY_ENTRY[name]
    g = make_gradient()
    _, _, kept, inside, outside = cut_at(subspace, density, g=g)
    np.testing.assert_array_equal(inside + outside, g)
    assert not np.any((inside != 0) & (outside != 0))
    expected = list(SHAPE)
    expected[axis] = count_kept(SHAPE[axis], density)
    assert kept.shape == tuple(expected)
    # None twice and none lost.
    lines = np.moveaxis(np.asarray(inside), axis, -1)
    kept_lines = np.moveaxis(np.asarray(kept), axis, -1)
    for line, kept_line in zip(
        lines.reshape(-1, lines.shape[-1]),
        kept_lines.reshape(-1, kept_lines.shape[-1]),
        strict=True,
    ):
        np.testing.assert_array_equal(np.sort(line[line != 0]), np.sort(kept_line))


@pytest.mark.parametrize("name", ["columns", "rows", "blocks"])
def test_lines_are_kept_whole(name):
    subspace, axis = BY_ENTRY[name]
    _, _, _, inside, _ = cut_at(subspace, 0.3, g=make_gradient())
    # One choice a matrix: of columns, all rows; of blocks, both.
    across = {"columns": 1, "rows": 2, "blocks": (1, 2)}[name]
    share = np.mean(np.asarray(inside) != 0, axis=across)
    assert set(np.unique(share)) == {0.0, 1.0}


@pytest.mark.parametrize(("size", "density"), [(12, 0.25), (12, 0.75), (6, 0.5)])
@pytest.mark.parametrize("name", ["columns", "rows", "coordinates"])
def test_every_entry_is_kept_equally_often(name, size, density):
    subspace, _ = BY_ENTRY[name]
    cut = subspace.cut((size, size), density)
    g = jnp.ones((size, size))

    def is_kept(refresh):
        basis = cut.choose(g, make_draw(3, 4, refresh))
        return cut.expand(cut.restrict(g, basis), basis)

    n = 600
    share = jax.jit(lambda: jnp.mean(jax.lax.map(is_kept, jnp.arange(n)), 0))()
    deviation = (density * (1 - density) / n) ** 0.5
    np.testing.assert_allclose(share, density, atol=4.5 * deviation)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (3, 6, 6)])
@pytest.mark.parametrize("name", BY_BASIS)
def test_bases_are_orthonormal_and_parts_are_orthogonal(name, shape):
    g = make_gradient(shape)
    rank = count_kept(min(shape[-2:]), 0.4)
    side = max if "longer" in name else min
    _, basis, kept, inside, outside = cut_at(BY_BASIS[name], 0.4, g=g)
    if basis.shape[-2] == rank:  # rows: the same, transposed
        assert shape[-1] == side(shape[-2:])
        g, basis, kept, inside, outside = (
            np.matrix_transpose(x) for x in (g, basis, kept, inside, outside)
        )
    assert basis.shape == (*shape[:-2], side(shape[-2:]), rank)
    assert kept.shape == (*shape[:-2], rank, g.shape[-1])
    gram = np.matrix_transpose(basis) @ basis
    np.testing.assert_allclose(
        gram, np.broadcast_to(np.eye(rank), gram.shape), atol=1e-5
    )
    np.testing.assert_allclose(inside + outside, g, atol=1e-5)
    np.testing.assert_allclose(np.matrix_transpose(basis) @ outside, 0, atol=1e-5)


def test_svd_spans_the_leading_singular_vectors():
    g = make_gradient((3, 9, 5))
    _, _, _, inside, _ = cut_at(optim.gradient_svd(), 0.4, g=g)
    u, s, v = np.linalg.svd(np.asarray(g), full_matrices=False)
    best = (u[..., :2] * s[..., None, :2]) @ v[..., :2, :]
    np.testing.assert_allclose(inside, best, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-30), ("float32", 1e25), ("bfloat16", 1.0)]
)
@pytest.mark.parametrize("side", [optim.shorter_side, optim.longer_side])
@pytest.mark.parametrize("shape", [(96, 48), (40, 80)])
def test_rounding_is_no_residual(shape, side, dtype, scale):
    rng = np.random.default_rng(0)
    low_rank = rng.normal(size=(shape[0], 3)) @ rng.normal(size=(3, shape[1]))
    if dtype == "bfloat16":  # rounding makes the rank full, but for small integers
        rng = np.random.default_rng(0)
        low_rank = np.outer(*(rng.integers(-3, 4, size=n) for n in shape))
    g = jnp.asarray(scale * low_rank, dtype)
    _, _, _, _, outside = cut_at(optim.gradient_svd(side=side), 0.1, g=g)
    assert outside.dtype == dtype
    np.testing.assert_array_equal(outside, 0)
    # A full gradient's residual is all there: nothing but rounding is taken out.
    g = jnp.asarray(scale * rng.normal(size=shape), dtype)
    _, _, _, _, outside = cut_at(optim.gradient_svd(side=side), 0.1, g=g)
    assert np.mean(np.asarray(outside) != 0) > 0.99


@pytest.mark.parametrize("name", BY_BASIS)
def test_the_whole_space_leaves_nothing(name):
    g = make_gradient((5, 5))
    cut, basis, kept, _, _ = cut_at(BY_BASIS[name], 0.99, g=g)
    assert not np.any(cut.residual(g, 0.9 * kept, basis))


def test_zero_gradient_has_a_finite_basis():
    _, basis, _, inside, outside = cut_at(
        optim.gradient_svd(), 0.5, g=jnp.zeros((6, 4))
    )
    assert np.all(np.isfinite(basis))
    assert not np.any(inside) and not np.any(outside)


@pytest.mark.parametrize("name", [*BY_ENTRY, "orthonormal"])
def test_a_choice_depends_on_seed_leaf_and_refresh_alone(name):
    subspace = BY_BASIS.get(name) or BY_ENTRY[name][0]
    g = make_gradient((12, 7, 10))
    cut = subspace.cut(g.shape, 0.3)

    def choose_once(g, seed, leaf, refresh):
        basis = cut.choose(g, make_draw(seed, leaf, refresh))
        kept = jax.eval_shape(cut.restrict, g, basis)
        return cut.expand(jnp.ones(kept.shape), basis)

    choose = jax.jit(choose_once)
    first = choose(g, 0, 1, 2)
    np.testing.assert_array_equal(choose(2 * g, 0, 1, 2), first)
    assert np.any(choose(g, 1, 1, 2) != first)
    assert np.any(choose(g, 0, 1, 3) != first)
    # Blocks are the same layers in every array.
    assert np.any(choose(g, 0, 2, 2) != first) == (name != "blocks")
    with jax.default_prng_impl("rbg"):
        again = jax.jit(lambda g: choose_once(g, 0, 1, 2))(g)
    np.testing.assert_array_equal(again, first)


def order_of(order, *, n_layers, n_active, refreshes):
    return [
        [
            int(i)
            for i in order(
                jax.random.key(refresh),
                refresh=refresh,
                n_layers=n_layers,
                n_active=n_active,
            )
        ]
        for refresh in range(refreshes)
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (optim.ascending_order, [[0, 1], [2, 3], [4, 0]]),
        (optim.descending_order, [[4, 3], [2, 1], [0, 4]]),
        (optim.mirror_order, [[0, 4], [1, 3], [2, 0]]),
    ],
)
def test_orders_go_round(order, expected):
    assert order_of(order, n_layers=5, n_active=2, refreshes=3) == expected


def test_random_order_is_distinct_and_varies():
    drawn = order_of(optim.random_order, n_layers=6, n_active=3, refreshes=8)
    assert all(len(set(layers)) == 3 for layers in drawn)
    assert len({tuple(layers) for layers in drawn}) > 1
    assert {layer for layers in drawn for layer in layers} == set(range(6))


@pytest.mark.parametrize(
    ("size", "density", "expected"),
    [(8, 0.25, 2), (8, 0.01, 1), (8, 0.99, 8), (5461, 0.25, 1365), (1, 0.25, 1)],
)
def test_kept_are_rounded_and_at_least_one(size, density, expected):
    assert count_kept(size, density) == expected


def test_blocks_need_layers():
    with pytest.raises(ValueError, match="no layer axis.*stack_layers"):
        optim.blocks().cut((4, 6), 0.5)


def test_stagger_is_positive():
    with pytest.raises(ValueError, match="stagger=0"):
        optim.gradient_svd(stagger=0)
