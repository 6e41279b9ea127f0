"""Small-scale proxies of large-scale training instabilities.

    sensitivity = mean over rates of min(loss, initial loss) - best loss
    max logit   = c N^p                          fitted to log-log, N parameters

The sensitivity measures how much the final loss changes when the learning rate deviates
from its optimum by orders of magnitude. In small models it predicts instabilities of
large ones. The largest attention logit grows as a power of the model size; near 10^3 to
10^4 attention becomes one-hot and training fails. Gradients shrink with model size and
learning rate; once their root mean square approaches Adam's epsilon, updates vanish.

Wortsman et al., "Small-scale proxies for large-scale Transformer training
instabilities", 2023, arXiv:2309.14322. The paper's learning rates range from 3e-4 to
3e-1, evenly spaced in the logarithm. Curves are float64 NumPy arrays on the host.
`tensor_rms` is JAX and costs one pass over the tree.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LOGIT_LIMIT = 1e3
"""Attention logit above which an alarm is raised: training fails within a further
factor of ten."""

Numbers = Sequence[float | int] | np.ndarray
"""One number per run."""


class Sensitivity(NamedTuple):
    """Dependence of the final loss on the learning rate."""

    value: float
    """Mean excess over the best loss, nats; NaN if no run learnt anything."""
    best_loss: float
    """Smallest final loss; the initial loss if no run is below it."""
    best_rate: float
    """Rate of the smallest final loss; NaN if no run is below the initial loss."""


class LogitGrowth(NamedTuple):
    """A power law of the largest attention logit in the number of parameters."""

    exponent: float
    """p: the logit grows by a factor 2^p if the model doubles."""
    log_coefficient: float
    """Natural logarithm of c, the extrapolated logit of a model with one parameter."""
    spread: float
    """Root mean square residual of the logarithm; 0 for two points."""


def learning_rate_sensitivity(
    learning_rates: Numbers, losses: Numbers, *, initial_loss: float | int
) -> Sensitivity:
    """Compute the sensitivity of the final loss to the learning rate.

    Args:
      learning_rates: positive and distinct. Space them evenly in the logarithm, because
        all rates have equal weight.
      losses: final loss at each rate, nats. A loss that is NaN, infinite (a diverged
        run) or above the initial loss counts as the initial loss.
      initial_loss: loss of the untrained model, nats, such as log V.

    Returns:
      The sensitivity, and the best loss with its rate.

    Raises:
      ValueError: if there are fewer than two rates, a rate is not positive or occurs
        twice, the numbers of rates and losses differ, or the initial loss is not
        finite.
    """
    rates = _positive("learning_rates", learning_rates)
    if len(set(rates)) < max(2, rates.size):
        raise ValueError(f"learning_rates={list(rates)}: needs two or more, each once")
    finals = np.asarray(losses, np.float64)
    if finals.shape != rates.shape:
        raise ValueError(f"losses: got {finals.size} for {rates.size} learning_rates")
    if not math.isfinite(initial_loss):
        raise ValueError(f"initial_loss={initial_loss}: must be finite")
    # -inf is below every loss, but it marks a diverged run, not a good one.
    learnt = np.isfinite(finals) & (finals < initial_loss)
    # Cap: a diverged run would otherwise make the mean infinite.
    capped = np.where(learnt, finals, initial_loss)
    best = int(np.argmin(capped))
    if not learnt.any():
        return Sensitivity(math.nan, float(initial_loss), math.nan)
    excess = float(np.mean(capped - capped[best]))
    return Sensitivity(excess, float(capped[best]), float(rates[best]))


def fit_logit_growth(n_parameters: Numbers, max_logits: Numbers) -> LogitGrowth:
    """Fit a power law to the largest attention logits by least squares of logarithms.

    Compare only models that were trained alike at the same learning rate.

    Args:
      n_parameters: number of parameters of each model, positive, at least two
        different.
      max_logits: largest attention logit of each model, positive.

    Returns:
      The power law; pass it to `predict_max_logit` to extrapolate.

    Raises:
      ValueError: if a value is not positive and finite, the lengths differ, or there
        are fewer than two different sizes.
    """
    sizes = _positive("n_parameters", n_parameters)
    logits = _positive("max_logits", max_logits)
    if logits.shape != sizes.shape:
        raise ValueError(f"max_logits: got {logits.size} for {sizes.size} sizes")
    if len(set(sizes)) < 2:
        raise ValueError(f"n_parameters={list(sizes)}: needs two different sizes")
    x, y = np.log(sizes), np.log(logits)
    # Centre first: logarithms of large sizes are close to each other, and sums of their
    # squares would cancel.
    away = x - x.mean()
    exponent = float(away @ (y - y.mean()) / (away @ away))
    intercept = float(y.mean() - exponent * x.mean())
    residual = y - intercept - exponent * x
    return LogitGrowth(exponent, intercept, float(np.sqrt(np.mean(residual**2))))


def predict_max_logit(growth: LogitGrowth, n_parameters: float | int) -> float:
    """Extrapolate the largest attention logit to a model of another size.

    Args:
      growth: power law from `fit_logit_growth`.
      n_parameters: number of parameters of the model, positive.

    Returns:
      The logit c N^p. If it is above `LOGIT_LIMIT`, normalise queries and keys.

    Raises:
      ValueError: if the size is not positive and finite.
    """
    if not 0 < n_parameters < math.inf:
        raise ValueError(f"n_parameters={n_parameters}: must be positive")
    # Sum of logarithms: c alone underflows for large N and p.
    return math.exp(growth.log_coefficient + growth.exponent * math.log(n_parameters))


def _positive(name: str, values: Numbers) -> np.ndarray:
    """Convert a sequence to an array, and check that all its numbers are positive."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: must be a sequence, has shape {array.shape}")
    wrong = array[~((array > 0) & np.isfinite(array))]
    if wrong.size:
        raise ValueError(f"{name}={wrong[0]:g}: must be positive and finite")
    return array
