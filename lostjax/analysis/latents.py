"""Which variables of a variational autoencoder carry information, and how they depend.

For an encoder that gives each example x a mean mu(x) and a variance v(x) per variable:

    passive   Var_x v < s  and  |mean_x v - 1| <= t       the prior, whatever x is
    active    Var_x v < s  and   mean_x v      <= t       precise on all examples
    mixed     otherwise                                   used by some examples alone

The mean representation mu(x) of passive variables is tiny but can be correlated; their
samples mu(x) + sqrt(v(x)) e are noise. So the dependence of a representation has to be
read without them. Of a covariance S with diagonal D, in nats where it is information:

    total correlation = 1/2 (log det D - log det S)
    Wasserstein       = 2 tr S - 2 tr (D^1/2 S D^1/2)^1/2           squared distance
    effective rank    = exp(entropy of the eigenvalues of S, which sum to 1)

The first two compare a Gaussian of covariance S with independent ones of the same
variances; the total correlation does not depend on the variables' scales. Bonheme &
Grzes, "Be More Active! Understanding the Differences between Mean and Sampled
Representations of Variational Autoencoders", 2021, arXiv:2109.12679, with s = t = 0.1;
the effective rank is that of Roy & Vetterli, "The Effective Rank", 2007.

Ours differs: a constant variable counts as independent and a variable that others
determine makes the total correlation infinite, not a rounding error. All is float64
NumPy on the host. Cost: B Z^2, and B (Z bins)^2 for the mutual information.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from lostjax.checks import require_positive
from lostjax.typing import Float, Int, Key

_LARGEST_LOG = 700.0  # its exponential is still a float64
_ROUNDING = 1e-10  # of eigenvalues of a correlation matrix, against 1


class VariableType(IntEnum):
    """What an encoder uses a latent variable for."""

    PASSIVE = 0
    MIXED = 1
    ACTIVE = 2


class LatentDependence(NamedTuple):
    """LatentDependence among some latent variables; NaN if there are fewer than two."""

    n_variables: int
    """How many there are."""
    total_correlation: float
    """Of a Gaussian with their covariance, nats; infinite if one is determined."""
    wasserstein: float
    """Squared Wasserstein distance of that Gaussian to independent variables."""
    mutual_information: float
    """Mean over pairs, nats, from histograms."""
    effective_rank: float
    """Between 1 and the number of variables."""


class LatentComparison(NamedTuple):
    """The mean and the sampled representation of the same variables."""

    mean: LatentDependence
    sampled: LatentDependence


def variable_types(
    variances_BZ: ArrayLike,
    *,
    spread: float = 0.1,
    tolerance: float = 0.1,
) -> Int[np.ndarray, "Z"]:
    """Sort latent variables into passive, mixed and active ones.

    Args:
      variances_BZ: the encoder's variances (not their logarithms, nor standard
        deviations) of B >= 2 examples, (B, Z), at least 0. The paper takes 10,000.
      spread: s > 0, the variance over examples from which a variable is mixed.
      tolerance: t > 0, distance of the mean variance to 1 (passive) or 0 (active).

    Returns:
      `VariableType` of each variable, (Z,).

    Raises:
      ValueError: fewer than two examples, a variance that is negative or not a number,
        or a threshold that is not positive.
    """
    require_positive("spread", spread)
    require_positive("tolerance", tolerance)
    variances_BZ = _read_matrix("variances_BZ", variances_BZ)
    if (variances_BZ < 0).any():
        raise ValueError(
            f"variances_BZ: {variances_BZ.min():g} is negative; pass variances, not "
            "their logarithms"
        )
    mean_Z = variances_BZ.mean(axis=0)
    steady_Z = variances_BZ.var(axis=0) < spread
    passive_Z = steady_Z & (np.abs(mean_Z - 1) <= tolerance)
    active_Z = steady_Z & (mean_Z <= tolerance)
    types_Z = np.full(mean_Z.shape, VariableType.MIXED, dtype=int)
    types_Z[active_Z] = VariableType.ACTIVE
    types_Z[passive_Z] = VariableType.PASSIVE
    return types_Z


def gaussian_total_correlation(covariance_ZZ: ArrayLike) -> float:
    """Compute the total correlation of a Gaussian.

    Args:
      covariance_ZZ: symmetric and positive semi-definite, (Z, Z). A variable without
        variance counts as independent of the others.

    Returns:
      Nats, at least 0; infinite if a variable is a linear function of others.

    Raises:
      ValueError: not a covariance.
    """
    covariance_ZZ = _read_covariance(covariance_ZZ)
    values_Z = np.linalg.eigvalsh(_correlations(covariance_ZZ))
    if values_Z[0] <= _ROUNDING * len(values_Z):
        return float("inf")
    return max(0.0, -0.5 * float(np.log(values_Z).sum()))


def gaussian_wasserstein_correlation(covariance_ZZ: ArrayLike) -> float:
    """Compute the squared Wasserstein distance of a Gaussian to an independent one.

    Args:
      covariance_ZZ: symmetric and positive semi-definite, (Z, Z). Pass correlations to
        compare representations of different scales.

    Returns:
      In units of the variance, at least 0.

    Raises:
      ValueError: not a covariance.
    """
    covariance_ZZ = _read_covariance(covariance_ZZ)
    scale_Z = np.sqrt(np.diag(covariance_ZZ))
    # Symmetric, so that its eigenvalues are real: those of D S.
    values_Z = np.linalg.eigvalsh(scale_Z[:, None] * covariance_ZZ * scale_Z)
    root = np.sqrt(values_Z.clip(min=0)).sum()
    return max(0.0, 2 * float(np.trace(covariance_ZZ) - root))


def effective_rank(covariance_ZZ: ArrayLike) -> float:
    """Compute how many directions a covariance has, counted by their variance.

    Args:
      covariance_ZZ: symmetric and positive semi-definite, (Z, Z).

    Returns:
      In [1, Z]; NaN if there is no variance at all.

    Raises:
      ValueError: not a covariance.
    """
    values_Z = np.linalg.eigvalsh(_read_covariance(covariance_ZZ)).clip(min=0)
    if not values_Z.any():
        return float("nan")
    shares_K = values_Z[values_Z > 0] / values_Z.sum()
    return float(np.exp(-(shares_K * np.log(shares_K)).sum()))


def mutual_information_matrix(
    z_BZ: ArrayLike, *, bins: int = 20
) -> Float[np.ndarray, "Z Z"]:
    """Estimate the mutual information of each pair of variables by histograms.

    The estimate is biased upwards, by about (bins - 1)^2 / 2 B nats if the variables
    are independent.

    Args:
      z_BZ: a representation (B, Z) of B >= 2 examples.
      bins: bins of each variable, equally wide between its extremes; at least 2.

    Returns:
      Nats (Z, Z), symmetric, at least 0; the diagonal has the entropies.

    Raises:
      ValueError: fewer than two examples or bins, or a value that is not finite.
    """
    z_BZ = _read_matrix("z_BZ", z_BZ)
    if bins < 2:
        raise ValueError(f"bins={bins}: must be at least 2")
    n_examples, n_variables = z_BZ.shape
    low_Z, span_Z = z_BZ.min(axis=0), np.ptp(z_BZ, axis=0)
    place_BZ = (z_BZ - low_Z) / np.where(span_Z > 0, span_Z, 1) * bins
    bin_BZ = place_BZ.astype(int).clip(max=bins - 1)
    # All pairs of bins of all pairs of variables are counted by one product.
    member_BK = np.eye(bins)[bin_BZ].reshape(n_examples, n_variables * bins)
    joint_KK = member_BK.T @ member_BK / n_examples
    marginal_K = np.diag(joint_KK)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms_KK = joint_KK * np.log(joint_KK / np.outer(marginal_K, marginal_K))
    terms_KK = np.where(joint_KK > 0, terms_KK, 0)
    pairs_ZZ = terms_KK.reshape(n_variables, bins, n_variables, bins).sum(axis=(1, 3))
    return np.asarray(pairs_ZZ.clip(min=0))


def compare_representations(
    mean_BZ: ArrayLike,
    log_variance_BZ: ArrayLike,
    *,
    key: Key,
    bins: int = 20,
) -> dict[str, LatentComparison]:
    """Compare the mean and the sampled representation, by type of variable.

    Args:
      mean_BZ: the encoder's means of B >= 2 examples, (B, Z).
      log_variance_BZ: logarithms of its variances (B, Z).
      key: draws the samples.
      bins: bins of the histograms of the mutual information.

    Returns:
      For "all", "active", "mixed", "passive" and "not passive" variables.

    Raises:
      ValueError: fewer than two examples, shapes that differ, a value that is not
        finite, or a variance that overflows.
    """
    mean_BZ = _read_matrix("mean_BZ", mean_BZ)
    log_BZ = _read_matrix("log_variance_BZ", log_variance_BZ)
    if log_BZ.shape != mean_BZ.shape:
        raise ValueError(
            f"log_variance_BZ: has shape {log_BZ.shape}, must be {mean_BZ.shape}"
        )
    if log_BZ.max() > _LARGEST_LOG:
        raise ValueError(
            f"log_variance_BZ: {log_BZ.max():g} is no logarithm of a variance; its "
            "exponential overflows"
        )
    types_Z = variable_types(np.exp(log_BZ))
    noise_BZ = np.asarray(jax.random.normal(key, mean_BZ.shape), np.float64)
    sampled_BZ = mean_BZ + np.exp(log_BZ / 2) * noise_BZ
    subsets = {
        "all": types_Z >= VariableType.PASSIVE,
        "active": types_Z == VariableType.ACTIVE,
        "mixed": types_Z == VariableType.MIXED,
        "passive": types_Z == VariableType.PASSIVE,
        "not passive": types_Z != VariableType.PASSIVE,
    }
    return {
        name: LatentComparison(
            _measure(mean_BZ[:, chosen_Z], bins=bins),
            _measure(sampled_BZ[:, chosen_Z], bins=bins),
        )
        for name, chosen_Z in subsets.items()
    }


def drop_passive(z_BZ: ArrayLike, types_Z: ArrayLike) -> Float[np.ndarray, "B K"]:
    """Remove the passive variables from a representation.

    Args:
      z_BZ: a representation (B, Z).
      types_Z: `VariableType` of each variable, (Z,).

    Returns:
      The other variables (B, K), in their order.

    Raises:
      ValueError: the number of types is not the number of variables.
    """
    z_BZ, types_Z = np.asarray(z_BZ), np.asarray(types_Z)
    if types_Z.shape != z_BZ.shape[1:]:
        raise ValueError(
            f"types_Z: has shape {types_Z.shape}, must be {z_BZ.shape[1:]}"
        )
    kept_BK: np.ndarray = z_BZ[:, types_Z != VariableType.PASSIVE]
    return kept_BK


def _measure(z_BK: np.ndarray, *, bins: int) -> LatentDependence:
    n_variables = z_BK.shape[1]
    if n_variables < 2:
        return LatentDependence(n_variables, *[float("nan")] * 4)
    covariance_KK = np.cov(z_BK, rowvar=False)
    pairs = np.triu_indices(n_variables, k=1)
    return LatentDependence(
        n_variables,
        gaussian_total_correlation(covariance_KK),
        gaussian_wasserstein_correlation(covariance_KK),
        float(mutual_information_matrix(z_BK, bins=bins)[pairs].mean()),
        effective_rank(covariance_KK),
    )


def _correlations(covariance_ZZ: np.ndarray) -> np.ndarray:
    """Scale a covariance to a diagonal of 1, also for variables without variance."""
    variance_Z = np.diag(covariance_ZZ)
    scale_Z = np.sqrt(np.where(variance_Z > 0, variance_Z, 1))
    correlation_ZZ: np.ndarray = covariance_ZZ / np.outer(scale_Z, scale_Z)
    np.fill_diagonal(correlation_ZZ, 1)
    return correlation_ZZ


def _read_matrix(name: str, given: ArrayLike) -> np.ndarray:
    array = np.asarray(given, np.float64)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise ValueError(
            f"{name}: has shape {array.shape}, must be at least two examples by "
            "variables"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: has values that are not finite")
    return array


def _read_covariance(given: ArrayLike) -> np.ndarray:
    array = np.asarray(given, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"covariance_ZZ: has shape {array.shape}, must be square")
    if not np.isfinite(array).all() or not np.allclose(array, array.T):
        raise ValueError("covariance_ZZ: must be finite and symmetric")
    if (np.diag(array) < 0).any():
        raise ValueError("covariance_ZZ: has a negative variance")
    values_Z = np.linalg.eigvalsh(_correlations(array))
    if values_Z[0] < -1e-6:  # float32 input is rounded
        raise ValueError(
            "covariance_ZZ: must be positive semi-definite; an eigenvalue of its "
            f"correlations is {values_Z[0]:g}"
        )
    return array
