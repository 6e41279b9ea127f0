"""The types of latent variables, and how much representations depend."""

import jax
import numpy as np
import pytest
import scipy.linalg
import sklearn.metrics

from lostjax import analysis
from lostjax.analysis import VariableType


def draw_covariance(seed, size=5):
    rows = np.random.default_rng(seed).normal(size=(size + 2, size))
    rows *= 10.0 ** np.linspace(-1, 1, size)
    return rows.T @ rows / size


@pytest.mark.parametrize("seed", range(4))
def test_gaussians_agree_with_determinants_and_matrix_roots(seed):
    covariance = draw_covariance(seed)
    independent = np.diag(np.diag(covariance))
    total = np.linalg.slogdet(independent)[1] - np.linalg.slogdet(covariance)[1]
    root = scipy.linalg.sqrtm(independent**0.5 @ covariance @ independent**0.5)
    distance = 2 * np.trace(covariance) - 2 * np.trace(root).real
    np.testing.assert_allclose(
        analysis.gaussian_total_correlation(covariance), total / 2, rtol=1e-9
    )
    np.testing.assert_allclose(
        analysis.gaussian_wasserstein_correlation(covariance), distance, rtol=1e-9
    )


def test_a_constant_variable_is_independent_and_a_copy_is_determined():
    covariance = draw_covariance(0, size=5)
    with_constant = np.pad(covariance, (0, 1))
    assert analysis.gaussian_total_correlation(
        with_constant
    ) == analysis.gaussian_total_correlation(covariance)
    copied = covariance[np.ix_([0, 1, 1], [0, 1, 1])]
    assert analysis.gaussian_total_correlation(copied) == np.inf


def test_mutual_information_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    z_BZ = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    got = analysis.mutual_information_matrix(z_BZ, bins=7)
    bins = [np.digitize(column, np.histogram(column, 7)[1][1:-1]) for column in z_BZ.T]
    truth = [[sklearn.metrics.mutual_info_score(a, b) for b in bins] for a in bins]
    np.testing.assert_allclose(got, truth, rtol=1e-9)


def test_a_constant_has_no_information():
    z_BZ = np.stack([np.arange(10.0), np.full(10, 3.0)], axis=1)
    np.testing.assert_array_equal(analysis.mutual_information_matrix(z_BZ)[1], [0, 0])


def test_passive_variables_depend_on_each_other_in_the_means_alone():
    """The paper's claim, planted: two tiny passive means that are copies."""
    rng = np.random.default_rng(0)
    used_B2, common_B = rng.normal(size=(5000, 2)), rng.normal(size=5000)
    mean_BZ = np.stack([*used_B2.T, 0.03 * common_B, 0.03 * common_B], axis=1)
    mean_BZ[:, 3] += 0.003 * rng.normal(size=5000)
    log_BZ = np.log(np.full((5000, 4), [1e-3, 1e-3, 1.0, 1.0]))
    found = analysis.compare_representations(mean_BZ, log_BZ, key=jax.random.key(0))
    assert [found[name].mean.n_variables for name in found] == [4, 2, 0, 2, 2]
    assert found["all"].mean.total_correlation > 2
    assert found["all"].sampled.total_correlation < 0.01
    for each in found["active"]:
        assert each.total_correlation < 0.01 and each.effective_rank > 1.99
    assert found["passive"].mean.mutual_information > 1
    # The bias of a histogram of 20 x 20 bins: 19^2 / 10,000.
    assert found["passive"].sampled.mutual_information < 0.06


def test_a_variable_at_both_thresholds_is_passive_or_mixed_never_both():
    steady = np.repeat([[0.05, 0.5, 0.95, 1.2]], 2, axis=0)
    assert list(analysis.variable_types(steady)) == [
        VariableType.ACTIVE,
        VariableType.MIXED,
        VariableType.PASSIVE,
        VariableType.MIXED,
    ]
    assert analysis.variable_types(steady, tolerance=0.3)[3] == VariableType.PASSIVE
    moving = np.array([[0.0], [2.0]])  # mean 1, but of 0 and 2
    assert analysis.variable_types(moving)[0] == VariableType.MIXED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean_BZ": np.zeros((1, 2))}, "at least two examples"),
        ({"mean_BZ": np.zeros((3, 3))}, r"has shape \(3, 2\), must be \(3, 3\)"),
        ({"mean_BZ": np.full((3, 2), np.nan)}, "mean_BZ: has values that are not"),
        ({"log_variance_BZ": np.full((3, 2), 800.0)}, "overflows"),
    ],
)
def test_a_bad_representation_is_refused(given, message):
    whole = {"mean_BZ": np.zeros((3, 2)), "log_variance_BZ": np.zeros((3, 2))} | given
    with pytest.raises(ValueError, match=message):
        analysis.compare_representations(**whole, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
        ([[-1.0]], "negative variance"),
        ([[1.0, 2.0], [2.0, 1.0]], "semi-definite"),
        (np.zeros((0, 0)), "square"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance, message):
    measures = (
        analysis.gaussian_total_correlation,
        analysis.gaussian_wasserstein_correlation,
        analysis.effective_rank,
    )
    for measure in measures:
        with pytest.raises(ValueError, match=message):
            measure(covariance)
