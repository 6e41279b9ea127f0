"""The decomposition against numpy's, and what LOST makes of it."""

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

SHAPES = [(40, 96), (96, 40), (64, 64)]
KEY = jax.random.key(0)


def gaussian(shape, seed=0):
    return 0.02 * jax.random.normal(jax.random.key(seed), shape)


def uneven(shape):
    """A matrix whose channels differ enough for scores to separate."""
    return gaussian(shape) * (1 + 0.5 * np.sin(np.arange(shape[0])))[:, None]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 10, 40])
def test_keeps_the_energy_that_numpy_keeps(shape, rank):
    dense = gaussian(shape)
    triples = jax.jit(top_singular_triples, static_argnums=1)(dense, rank)
    left, values, right = np.linalg.svd(np.asarray(dense, np.float64))
    np.testing.assert_allclose(triples.values_R, values[:rank], rtol=1e-5)
    kept = np.asarray(triples.left_MR * triples.values_R @ triples.right_RN)
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
    factors = svd_factors(KEY, InitialMatrix(dense, 24))
    residual = np.asarray(dense - factors.a_MR @ factors.b_RN, np.float64)
    np.testing.assert_allclose(np.sum(residual**2), np.sum(values[24:] ** 2), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_share_the_singular_values_evenly(shape):
    a, b = svd_factors(KEY, InitialMatrix(gaussian(shape), 10))
    np.testing.assert_allclose(a.T @ a, b @ b.T, atol=1e-5)
    values = np.linalg.svd(gaussian(shape), compute_uv=False)[:10]
    np.testing.assert_allclose(jnp.diag(a.T @ a), values, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_follow_from_the_matrix_alone(shape):
    triples = top_singular_triples(gaussian(shape), 10)
    left = np.asarray(triples.left_MR)
    assert np.all(left[np.argmax(np.abs(left), axis=0), np.arange(10)] > 0)
    # Whatever signs a library gives its vectors, the rule brings them to these.
    library, _, _ = np.linalg.svd(np.asarray(gaussian(shape), np.float64))
    flips = np.where(np.sum(library[:, :10] * left, axis=0) < 0, -1, 1)
    assert len(set(flips)) == 2
    np.testing.assert_allclose(library[:, :10] * flips, left, atol=1e-3)
    # Turning the matrix over turns the right vectors only.
    turned = top_singular_triples(-gaussian(shape), 10)
    np.testing.assert_allclose(turned.left_MR, left, atol=1e-5)
    np.testing.assert_allclose(turned.right_RN, -triples.right_RN, atol=1e-5)


def test_a_matrix_of_low_rank_has_no_nan():
    dense = jnp.outer(jnp.arange(1.0, 9.0), jnp.ones(12))
    for matrix in (dense, dense.T, jnp.zeros((8, 12)), jnp.zeros((12, 8))):
        a, b = svd_factors(KEY, InitialMatrix(matrix, 4))
        np.testing.assert_allclose(a @ b, matrix, atol=1e-4)
        assert jnp.all(jnp.isfinite(a)) and jnp.all(jnp.isfinite(b))


@pytest.mark.parametrize("shape", SHAPES)
def test_residual_norms_need_no_residual(shape):
    initial = InitialMatrix(gaussian(shape), 10)
    factors = svd_factors(KEY, initial)
    residual = initial.dense_MN - factors.a_MR @ factors.b_RN
    expected = np.sum(np.square(residual), axis=1)
    np.testing.assert_allclose(squared_residual_norms(initial), expected, rtol=1e-4)


def test_scaled_normal_factors_have_colas_scale():
    initial = InitialMatrix(jnp.zeros((300, 500)), 64)
    a, b = scaled_normal_factors(KEY, initial)
    assert (a.shape, b.shape) == ((300, 64), (64, 500))
    expected = 64**-0.25 * 800**-0.25
    assert float(jnp.std(a)) == pytest.approx(expected, rel=0.02)
    assert float(jnp.std(b)) == pytest.approx(expected, rel=0.02)
    assert abs(jnp.mean(a)) < 0.02 * expected
    assert abs(jnp.corrcoef(a[:, 0], b[0, :300])[0, 1]) < 0.2


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_cannot_be_is_refused(rank):
    initial = InitialMatrix(jnp.zeros((8, 12)), rank)
    for make in (svd_factors, scaled_normal_factors):
        with pytest.raises(ValueError, match=f"rank={rank} is not within 1 to 8"):
            make(KEY, initial)


def test_lost_is_derived_from_one_matrix():
    shape, rank = (48, 80), 12
    dense = np.asarray(uneven(shape), np.float64)
    layer = LowRankSparse(
        80, rank, delta=0.125, kernel_init=lambda *_: jnp.asarray(dense, jnp.float32)
    )
    variables = layer.init(KEY, jnp.zeros((1, 48)))
    params, kept = variables["params"], np.asarray(variables["channels"]["kept"])
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
    layer = LowRankSparse(24, 4, delta=1.0, gamma=0.0, kernel_init=lambda *_: dense)
    x = jax.random.normal(KEY, (5, 16))
    y, _ = layer.init_with_output(KEY, x)
    np.testing.assert_allclose(y, x @ dense, atol=1e-6)


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
    dense = gaussian((96, layer.features))
    layer = layer.clone(kernel_init=lambda *_: dense)
    fresh = jax.random.normal(jax.random.key(7), (4096, 96))
    expected = float(jnp.var(fresh @ dense))
    y, _ = layer.init_with_output(KEY, fresh)
    assert float(jnp.var(y)) == pytest.approx(expected, rel=0.02)
    plain, _ = layer.clone(correct_variance=False).init_with_output(KEY, fresh)
    assert not jnp.allclose(jnp.var(plain), expected, rtol=0.1)
    # One scalar does it: the directions stay.
    cosine = jnp.vdot(y, plain) / jnp.linalg.norm(y) / jnp.linalg.norm(plain)
    assert float(cosine) == pytest.approx(1.0, abs=1e-5)


def test_replicated_is_the_identity_under_jit_and_vmap():
    x = gaussian((3, 4, 5))
    np.testing.assert_array_equal(jax.jit(replicated)(x), x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(replicated))(x), x)
    scores = jax.vmap(lambda w: residual_norm_channels(KEY, InitialMatrix(w, 2)))(x)
    one = residual_norm_channels(KEY, InitialMatrix(x[1], 2))
    np.testing.assert_allclose(scores[1], one, atol=1e-8)


def test_layers_without_outputs_are_refused():
    """Their variance cannot be restored: 0 / 0 would be NaN in every parameter."""
    x = jnp.ones((2, 16))
    zeros = jax.nn.initializers.zeros
    with pytest.raises(ValueError, match="correct_variance=True: .*kernel_init"):
        LowRankSparse(8, 4, correct_variance=True, kernel_init=zeros).init(KEY, x)
    with pytest.raises(ValueError, match="gamma=0 and delta=0.0 keep neither"):
        LowRankSparse(8, 4, gamma=0.0, delta=0.0).init(KEY, x)
