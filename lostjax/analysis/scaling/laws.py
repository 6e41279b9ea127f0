"""A loss law, what a fit of one minimises, and what the fit returns; see `loss_law`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling.points import Amounts, as_array
from lostjax.typing import Float

CONSTANTS = ("E", "A", "B", "alpha", "beta")
"""Names of the constants of a law, in the order of a fit's covariance."""


class LossLaw(NamedTuple):
    """L(N, D) = E + A / N^alpha + B / D^beta, nats per token."""

    E: float
    """Irreducible loss."""
    A: float
    """Loss that a model of one parameter would add."""
    B: float
    """Loss that a single token would add."""
    alpha: float
    """Exponent of the parameters."""
    beta: float
    """Exponent of the tokens."""


class Objective(NamedTuple):
    """What a fit minimises: sum of rho(transform(law) - transform(loss))."""

    transform: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    """Its derivative."""
    delta: float = np.inf
    """Difference up to which rho is a square, and beyond which it is linear."""


SQUARED_ERROR = Objective(lambda loss: loss, np.ones_like)
"""Squared error of the loss, as Choshen et al. have it."""


def log_huber(*, delta: float | int = 1e-3) -> Objective:
    """Make the Huber loss of log L, as Hoffmann et al. have it.

    Args:
      delta: difference of logarithms beyond which a point is an outlier, positive.
    """
    if not delta > 0:
        raise ValueError(f"delta={delta}: must be positive")
    return Objective(np.log, np.reciprocal, delta)


class LawPrior(NamedTuple):
    """Constants that a fit is pulled to if its points do not tell otherwise."""

    law: LossLaw
    """Of other families, such as the mean of their fits."""
    log_deviation: float = 1.0
    """Standard deviation of the logarithms of E and of both terms at the mean of N and
    D, between families."""
    exponent_deviation: float = 0.1
    """Standard deviation of both exponents between families."""
    noise: float = 0.01
    """Standard deviation of a point around its law, relative to the loss."""


class LossFit(NamedTuple):
    """A fitted law and how far it can be trusted."""

    law: LossLaw
    warnings: tuple[str, ...]
    """Why it should not be extrapolated; empty if it converged."""
    residuals: Float[np.ndarray, "P"]
    """log loss minus log law at each point."""
    covariance: Float[np.ndarray, "5 5"]
    """Of log E, log term of N, log term of D (both at `centre`), alpha and beta, as if
    points were independent, which checkpoints of a run are not: too small. Zero for a
    fixed constant."""
    centre: tuple[float, float]
    """N and D at which the terms are taken."""

    @property
    def converged(self) -> bool:
        """Whether there is no warning."""
        return not self.warnings


def predict_loss(law: LossLaw, *, n_params: Amounts, tokens: Amounts) -> np.ndarray:
    """Compute the loss of a law.

    Args:
      law: its constants.
      n_params: number of parameters, positive, of any shape.
      tokens: number of tokens, positive, of a shape that fits.

    Returns:
      The loss, nats per token; infinity if a size or a number of tokens is 0.
    """
    sizes, seen = as_array(n_params), as_array(tokens)
    with np.errstate(divide="ignore"):
        loss = law.E + law.A * sizes**-law.alpha + law.B * seen**-law.beta
    return np.asarray(loss)


def absolute_relative_error(predicted: np.ndarray, losses: np.ndarray) -> float:
    """Compute the mean of |prediction - loss| / loss, as a share.

    Args:
      predicted: losses of a law, nats.
      losses: what was measured, positive, of the same shape.
    """
    return float(np.mean(np.abs(np.asarray(predicted) - losses) / losses))
