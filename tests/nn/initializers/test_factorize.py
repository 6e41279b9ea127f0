"""The decomposition against numpy's, and what LOST makes of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import (
    InitialMatrix,
    LowRank,
    LowRankSparse,
    residual_norm_channels,
    scaled_normal_factors,
    svd_factors,
    top_singular_triples,
)
from lostjax.nn.initializers.factorize import squared_residual_norms
from lostjax.nn.initializers.replication import replicated
from lostjax.nn.initializers.variance import matching_scale
from lostjax.nn.kernels.bottleneck import BottleneckWeights

SHAPES = [(40, 96), (96, 40), (64, 64)]
KEY = jax.random.key(0)


def gaussian(shape, seed=0):
    draw = np.random.default_rng(seed).normal(size=shape, scale=0.02)
    return jnp.asarray(draw, jnp.float32)


# One program a function and shape: op by op, each operation would compile.
triples_of = jax.jit(top_singular_triples, static_argnums=1)


@partial(jax.jit, static_argnums=(0, 2))
def factor(factorize, dense, rank):
    return factorize(KEY, InitialMatrix(dense, rank))


@partial(jax.jit, static_argnums=0)
def start_and_apply(layer, x, dense):
    """Start a layer from one initial matrix."""
    return layer.clone(kernel_init=lambda *_: dense).init_with_output(KEY, x)


def uneven(shape):
    """A matrix whose channels differ enough for scores to separate."""
    return gaussian(shape) * (1 + 0.5 * np.sin(np.arange(shape[0])))[:, None]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 10, 40])
def test_keeps_the_energy_that_numpy_keeps(shape, rank):
    dense = gaussian(shape)
    triples = triples_of(dense, rank)
    left, values, right = np.linalg.svd(np.asarray(dense, np.float64))
    np.testing.assert_allclose(triples.values_R, values[:rank], rtol=1e-5)
    triples = jax.tree.map(np.asarray, triples)
    kept = triples.left_MR * triples.values_R @ triples.right_RN
    assert np.sum(kept**2) >= 0.999 * np.sum(values[:rank] ** 2)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(kept, best, atol=2e-6)
    for vectors in (triples.left_MR.T, triples.right_RN):
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(rank), atol=2e-5)


@pytest.mark.parametrize("shape", [(96, 384), (384, 96)])
def test_the_best_energy_of_a_flat_spectrum_at_a_width_of_a_model(shape):
    # The case where a randomised decomposition loses a tenth.
    dense = gaussian(shape)
    values = np.linalg.svd(np.asarray(dense, np.float64), compute_uv=False)
    a, b = (np.asarray(each, np.float64) for each in factor(svd_factors, dense, 24))
    residual = dense - a @ b
    np.testing.assert_allclose(np.sum(residual**2), np.sum(values[24:] ** 2), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_share_the_singular_values_evenly(shape):
    a, b = (np.asarray(each) for each in factor(svd_factors, gaussian(shape), 10))
    np.testing.assert_allclose(a.T @ a, b @ b.T, atol=1e-5)
    values = np.linalg.svd(gaussian(shape), compute_uv=False)[:10]
    np.testing.assert_allclose(np.diag(a.T @ a), values, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_follow_from_the_matrix_alone(shape):
    triples = triples_of(gaussian(shape), 10)
    left = np.asarray(triples.left_MR)
    assert np.all(left[np.argmax(np.abs(left), axis=0), np.arange(10)] > 0)
    # Whatever signs a library gives its vectors, the rule brings them to these.
    library, _, _ = np.linalg.svd(np.asarray(gaussian(shape), np.float64))
    flips = np.where(np.sum(library[:, :10] * left, axis=0) < 0, -1, 1)
    assert len(set(flips)) == 2
    np.testing.assert_allclose(library[:, :10] * flips, left, atol=1e-3)
    # Turning the matrix over turns the right vectors only.
    turned = triples_of(-gaussian(shape), 10)
    np.testing.assert_allclose(turned.left_MR, left, atol=1e-5)
    np.testing.assert_allclose(turned.right_RN, -triples.right_RN, atol=1e-5)


def test_a_matrix_of_low_rank_has_no_nan():
    dense = np.outer(np.arange(1.0, 9.0), np.ones(12)).astype(np.float32)
    for matrix in (dense, dense.T, 0 * dense, 0 * dense.T):
        a, b = (np.asarray(each) for each in factor(svd_factors, matrix, 4))
        np.testing.assert_allclose(a @ b, matrix, atol=1e-4)
        assert np.all(np.isfinite(a)) and np.all(np.isfinite(b))


@pytest.mark.parametrize("shape", SHAPES)
def test_residual_norms_need_no_residual(shape):
    dense = gaussian(shape)

    @jax.jit
    def both(dense):
        initial = InitialMatrix(dense, 10)
        return svd_factors(KEY, initial), squared_residual_norms(initial)

    (a, b), norms = jax.tree.map(np.asarray, both(dense))
    expected = np.sum(np.square(dense - a @ b), axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)


def test_scaled_normal_factors_have_colas_scale():
    made = factor(scaled_normal_factors, np.zeros((300, 500), np.float32), 64)
    a, b = map(np.asarray, made)
    assert (a.shape, b.shape) == ((300, 64), (64, 500))
    expected = 64**-0.25 * 800**-0.25
    assert np.std(a) == pytest.approx(expected, rel=0.02)
    assert np.std(b) == pytest.approx(expected, rel=0.02)
    assert abs(np.mean(a)) < 0.02 * expected
    assert abs(np.corrcoef(a[:, 0], b[0, :300])[0, 1]) < 0.2


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_cannot_be_is_refused(rank):
    initial = InitialMatrix(jnp.zeros((8, 12)), rank)
    for make in (svd_factors, scaled_normal_factors):
        with pytest.raises(ValueError, match=f"rank={rank} is not within 1 to 8"):
            make(KEY, initial)


def test_lost_is_derived_from_one_matrix():
    shape, rank = (48, 80), 12
    dense = np.asarray(uneven(shape), np.float64)
    layer = LowRankSparse(80, rank, delta=0.125)
    _, variables = start_and_apply(layer, jnp.zeros((1, 48)), np.float32(dense))
    variables = jax.tree.map(np.asarray, variables)
    params, kept = variables["params"], variables["channels"]["kept"]
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(params["a"] @ params["b"], best, atol=1e-5)
    norms = np.linalg.norm(dense - best, axis=1)
    expected = np.sort(np.argsort(-norms)[:6])
    np.testing.assert_array_equal(kept, expected)
    # Copied from W0 itself, not from what the low-rank part leaves.
    np.testing.assert_allclose(params["values"], dense[expected], atol=1e-7)


def test_the_whole_matrix_kept_at_gamma_0_is_the_dense_layer():
    dense = gaussian((16, 24))
    layer = LowRankSparse(24, 4, delta=1.0, gamma=0.0)
    x = 50 * gaussian((5, 16), seed=1)
    y, _ = start_and_apply(layer, x, dense)
    np.testing.assert_allclose(y, np.asarray(x) @ np.asarray(dense), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        LowRankSparse(160, 24, delta=0.05, correct_variance=True),
        LowRankSparse(160, 24, activation=None, correct_variance=True),
        LowRankSparse(40, 24, gamma=0.0, delta=0.1, correct_variance=True),
        LowRankSparse(160, 24, gamma=1.0, delta=0.0, correct_variance=True),
        LowRank(160, 24, activation=jax.nn.silu, correct_variance=True),
        LowRank(160, 24, factorize=scaled_normal_factors, correct_variance=True),
    ],
)
def test_corrected_output_variance_is_that_of_the_dense_matrix(layer):
    dense = np.asarray(gaussian((96, layer.features)))
    fresh = np.asarray(50 * gaussian((4096, 96), seed=7))
    expected = np.var(fresh @ dense)
    y, plain = (
        np.asarray(start_and_apply(each, fresh, dense)[0])
        for each in (layer, layer.clone(correct_variance=False))
    )
    assert np.var(y) == pytest.approx(expected, rel=0.02)
    assert not np.allclose(np.var(plain), expected, rtol=0.1)
    # One scalar does it: the directions stay.
    cosine = np.vdot(y, plain) / np.linalg.norm(y) / np.linalg.norm(plain)
    assert cosine == pytest.approx(1.0, abs=1e-5)


def test_replicated_is_the_identity_under_jit_and_vmap():
    x = gaussian((3, 4, 5))
    np.testing.assert_array_equal(jax.jit(replicated)(x), x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(replicated))(x), x)

    def score(dense):
        return residual_norm_channels(KEY, InitialMatrix(dense, 2))

    scores, one = jax.jit(jax.vmap(score))(x), jax.jit(score)(x[1])
    np.testing.assert_allclose(scores[1], one, atol=1e-8)


def test_layers_without_outputs_are_refused():
    """Their variance cannot be restored: 0 / 0 would be NaN in every parameter."""
    x = jnp.ones((2, 16))
    # Not through a layer: its `init`, operation by operation, would compile for long.
    weights = BottleneckWeights(jnp.zeros((16, 4)), jnp.zeros((4, 8)))
    with pytest.raises(ValueError, match="correct_variance=True: .*kernel_init"):
        matching_scale(KEY, jnp.zeros((16, 8)), weights=weights, activation=None)
    with pytest.raises(ValueError, match="gamma=0 and delta=0.0 keep neither"):
        LowRankSparse(8, 4, gamma=0.0, delta=0.0).init(KEY, x)
