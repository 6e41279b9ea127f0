"""Concepts: the factors, the indices and the gradients of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import sklearn.decomposition
from scipy.stats import qmc

from lostjax import analysis
from lostjax.analysis.concepts.factorisation import start_factors
from lostjax.analysis.concepts.sobol import draw_design


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0, zeros=0.3):
    rng = np.random.default_rng(seed)
    return rng.random(shape) * (rng.random(shape) > zeros)


@pytest.mark.parametrize("steps", [1, 20])
def test_factors_agree_with_scikit_learn_step_by_step(steps, float64):
    a_BM = draw(30, 12)
    u_BR, w_RM = map(np.array, start_factors(jnp.asarray(a_BM), 4))
    u_BR, w_RM, _ = sklearn.decomposition.non_negative_factorization(
        a_BM,
        u_BR,
        w_RM,
        n_components=4,
        init="custom",
        tol=0,
        max_iter=steps,
    )
    got = analysis.nmf(jnp.asarray(a_BM), 4, max_steps=steps, tolerance=0)
    np.testing.assert_allclose(got.u_BR @ got.w_RM, u_BR @ w_RM, atol=1e-12)
    error = np.linalg.norm(a_BM - u_BR @ w_RM) / np.linalg.norm(a_BM)
    np.testing.assert_allclose(got.error, error, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(got.w_RM, axis=1), 1)


def test_the_start_is_scikit_learns(float64):
    a_BM = draw(30, 12)
    model = sklearn.decomposition.NMF(4, init="nndsvda", max_iter=1, random_state=0)
    u_BR, w_RM = start_factors(jnp.asarray(a_BM), 4)
    truth = model.fit_transform(a_BM) @ model.components_
    got = analysis.nmf(jnp.asarray(a_BM), 4, max_steps=1, tolerance=0)
    np.testing.assert_allclose(got.u_BR @ got.w_RM, truth, atol=1e-9)
    assert np.all(u_BR > 0) and np.all(w_RM > 0)


def test_factorisation_stops_by_its_tolerance_and_says_so():
    a_BM = jnp.asarray(draw(30, 12), jnp.float32)
    early, late = (analysis.nmf(a_BM, 4, tolerance=t) for t in (1e-2, 1e-5))
    assert early.converged and early.n_steps < late.n_steps
    assert late.error < early.error
    assert not analysis.nmf(a_BM, 4, max_steps=2).converged


@pytest.mark.parametrize("of", [np.zeros, np.ones])
def test_a_table_of_rank_one_or_none_has_finite_factors(of):
    got = analysis.nmf(jnp.asarray(of((5, 4)), jnp.float32), 3)
    assert all(np.all(np.isfinite(part)) for part in got)
    np.testing.assert_allclose(got.u_BR @ got.w_RM, of((5, 4)), atol=1e-5)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_no_table_has_is_refused(rank):
    with pytest.raises(ValueError, match=r"rank=.: must lie in \[1, 4\]"):
        analysis.nmf(jnp.ones((6, 4)), rank)


def test_least_squares_agree_with_scipy(float64):
    w_RM = draw(8, 12)
    a_BM = np.random.default_rng(1).normal(size=(200, 12)) + 0.5
    truth = np.stack([scipy.optimize.nnls(w_RM.T, a_M)[0] for a_M in a_BM])
    got = analysis.nnls(jnp.asarray(a_BM), jnp.asarray(w_RM))
    np.testing.assert_allclose(got, truth, atol=1e-11)
    assert 0.2 < np.mean(truth == 0) < 0.8


def test_the_gradient_is_that_of_scipys_solution(float64):
    w_RM = draw(5, 7) + 0.01
    rng = np.random.default_rng(2)
    a_M, da_M, dw_RM = rng.random(7), rng.normal(size=7), rng.normal(size=(5, 7))

    def solve(t):
        return scipy.optimize.nnls((w_RM + t * dw_RM).T, a_M + t * da_M)[0]

    slope_R = (solve(1e-6) - solve(-1e-6)) / 2e-6
    inputs = jnp.asarray(a_M), jnp.asarray(w_RM)
    _, forward_R = jax.jvp(analysis.nnls, inputs, (da_M, dw_RM))
    np.testing.assert_allclose(forward_R, slope_R, atol=1e-7)
    assert np.any(slope_R == 0) and np.count_nonzero(slope_R) > 1
    backward = jax.grad(lambda *x: analysis.nnls(*x) @ jnp.arange(5.0), (0, 1))(*inputs)
    along = sum(np.sum(b * d) for b, d in zip(backward, (da_M, dw_RM), strict=True))
    np.testing.assert_allclose(along, slope_R @ np.arange(5.0), atol=1e-6)


def test_equal_and_empty_concepts_have_a_solution():
    w_RM = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    u_R = analysis.nnls(jnp.array([3.0, 4.0]), w_RM)
    np.testing.assert_allclose(u_R @ w_RM, [3, 4], rtol=1e-4)
    assert u_R[2] == 0
    assert np.all(np.isfinite(jax.jacobian(analysis.nnls)(jnp.ones(2), w_RM)))


def ishigami(x_NR):
    x, y, z = (2 * jnp.pi * x_NR - jnp.pi).T
    return jnp.sin(x) * (1 + 0.1 * z**4) + 7 * jnp.sin(y) ** 2


@pytest.mark.parametrize("engine", [qmc.Sobol, qmc.Halton])
def test_indices_are_ishigamis(engine):
    found = analysis.total_sobol(ishigami, 3, n_designs=4096, engine=engine)
    np.testing.assert_allclose(found.indices, [0.5576, 0.4424, 0.2437], atol=0.005)
    np.testing.assert_allclose(found.variance, 13.845, rtol=0.01)


def test_indices_agree_with_salib_on_the_same_points(float64):
    salib = pytest.importorskip("SALib.analyze.sobol", reason="SALib is not installed")
    first, second = map(np.array, draw_design(3, 64, engine=qmc.Sobol, seed=5))
    mixed = [np.where(np.arange(3) == i, second, first) for i in range(3)]
    rows = np.stack([first, *mixed, second], axis=1).reshape(-1, 3)
    problem = {"num_vars": 3, "names": list("xyz"), "bounds": [[0, 1]] * 3}
    truth = salib.analyze(
        problem,
        np.asarray(ishigami(jnp.asarray(rows))),
        calc_second_order=False,
        num_resamples=2,
        seed=0,
    )
    found = analysis.total_sobol(ishigami, 3, n_designs=64, seed=5)
    np.testing.assert_allclose(found.indices, truth["ST"], rtol=1e-9)


def test_an_output_that_does_not_vary_has_no_important_input():
    found = analysis.total_sobol(
        lambda m: jnp.stack([jnp.full(len(m), 1e3), m[:, 0]], axis=1), 2, n_designs=16
    )
    np.testing.assert_allclose(found.indices[:, 0], 0)
    assert found.indices[0, 1] > 0.5 and found.indices[1, 1] == 0


def test_a_function_that_loses_rows_is_named():
    with pytest.raises(ValueError, match="f: returned shape"):
        analysis.total_sobol(lambda m: m.sum(), 2, n_designs=4)
    with pytest.raises(ValueError, match="head: returned shape"):
        analysis.concept_importance(lambda a: a, jnp.ones((2, 2)), jnp.eye(2))


def test_interacting_concepts_count_more_than_once():
    """h = a_0 a_1 on three concepts: both total indices exceed a half."""
    found = analysis.concept_importance(
        lambda a: a[:, 0] * a[:, 1], jnp.array([[2.0, 3.0, 1.0]]), jnp.eye(3)
    )
    truth = (1 / 9 - 1 / 12) / (1 / 9 - 1 / 16)  # E[y^2] E[Var x] / Var(x y)
    np.testing.assert_allclose(found.importance_R, [truth, truth, 0], atol=0.02)


def test_a_concept_is_refined_on_its_own_crops():
    """Half of the crops have the concept, in two kinds; the rest are something else."""
    kinds = np.repeat(np.eye(4), 10, axis=0)
    strength = np.repeat([2.0, 1.0, 0.0, 0.0], 10)
    found = analysis.refine_concept(
        lambda crops: crops,
        jnp.asarray(kinds, jnp.float32),
        strength_B=jnp.asarray(strength),
        rank=2,
        quantile=0.4,
    )
    assert sorted(found.rows_K) == list(range(20))
    assert list(found.rows_K[:10]) == list(range(10))  # the strongest first
    np.testing.assert_allclose(found.factors.w_RM.sum(axis=0), [1, 1, 0, 0], atol=1e-5)


def test_a_rare_concept_has_its_own_crops_alone():
    strength = jnp.zeros(50).at[7].set(1.0)
    found = analysis.refine_concept(
        lambda crops: crops, jnp.ones((50, 3)), strength_B=strength, rank=1
    )
    assert list(found.rows_K) == [7]
    with pytest.raises(ValueError, match="is 0 everywhere"):
        analysis.refine_concept(
            lambda crops: crops, jnp.ones((5, 3)), strength_B=jnp.zeros(5), rank=1
        )
