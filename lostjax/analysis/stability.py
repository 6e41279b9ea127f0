"""Small-scale proxies of large-scale instabilities, read from curves and trees.

    sensitivity = mean over rates of min(loss, initial loss) - best loss
    max logit   = c N^p                          fitted to log-log, N parameters

How far the final loss moves as the learning rate leaves its best over orders of
magnitude says at small size what breaks at large size, and the largest attention logit
grows as a power of the model's size: where it comes near 10^3 to 10^4 attention turns
one-hot and the loss breaks. Gradients shrink with size and rate; once their root mean
square nears Adam's epsilon, updates vanish.

Wortsman et al., "Small-scale proxies for large-scale Transformer training
instabilities", 2023, arXiv:2309.14322. The paper's rates run from 3e-4 to 3e-1, evenly
in their logarithm. Curves are NumPy in float64 on the host; `tensor_rms` is JAX and
costs one pass over the tree.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LOGIT_LIMIT = 1e3
"""Attention logits beyond this are an alarm: the loss breaks within a decade."""

Numbers = Sequence[float | int] | np.ndarray
"""One number a run."""


class Sensitivity(NamedTuple):
    """How much a final loss depends on the learning rate."""

    value: float
    """Mean excess over the best loss, nats; NaN where no rate learnt anything."""
    best_loss: float
    """The smallest final loss; the initial one where none is below it."""
    best_rate: float
    """The learning rate that reached it; NaN where none is below the initial loss."""


class LogitGrowth(NamedTuple):
    """A power law of the largest attention logit in the number of parameters."""

    exponent: float
    """p: the logit grows by 2^p when the model doubles."""
    log_coefficient: float
    """Natural logarithm of c, the logit of a model of one parameter."""
    spread: float
    """Root mean square residual of the logarithm; 0 for two points."""


def learning_rate_sensitivity(
    learning_rates: Numbers, losses: Numbers, *, initial_loss: float | int
) -> Sensitivity:
    """Measure how much the final loss depends on the learning rate.

    Args:
      learning_rates: positive, each once, evenly spaced in their logarithm: every one
        counts the same.
      losses: the final loss at each, nats; NaN or infinite for a run that diverged,
        which counts as the initial loss, and so does any loss above it.
      initial_loss: of the untrained model, such as log V.

    Returns:
      The sensitivity, and where the best lies.

    Raises:
      ValueError: fewer than two rates, another number of losses, a rate that is not
        positive or comes twice, an initial loss that is not finite.
    """
    rates = _positive("learning_rates", learning_rates)
    if len(set(rates)) < max(2, rates.size):
        raise ValueError(f"learning_rates={list(rates)}: needs two or more, each once")
    finals = np.asarray(losses, np.float64)
    if finals.shape != rates.shape:
        raise ValueError(
            f"losses: {finals.size} of them, for {rates.size} learning_rates"
        )
    if not math.isfinite(initial_loss):
        raise ValueError(f"initial_loss={initial_loss}: must be finite")
    learnt = np.isfinite(finals) & (finals < initial_loss)
    capped = np.where(learnt, finals, initial_loss)
    best = int(np.argmin(capped))
    if not learnt.any():
        return Sensitivity(math.nan, float(initial_loss), math.nan)
    excess = float(np.mean(capped - capped[best]))
    return Sensitivity(excess, float(capped[best]), float(rates[best]))


def fit_logit_growth(n_parameters: Numbers, max_logits: Numbers) -> LogitGrowth:
    """Fit the growth of the largest attention logit by least squares of logarithms.

    Compare models that were trained alike, at one learning rate.

    Args:
      n_parameters: sizes of the models, positive, at least two of them different.
      max_logits: the largest attention logit of each, positive.

    Returns:
      The power law, for `predict_max_logit` at a larger size.

    Raises:
      ValueError: naming what is not positive and finite, or too few.
    """
    sizes = _positive("n_parameters", n_parameters)
    logits = _positive("max_logits", max_logits)
    if logits.shape != sizes.shape:
        raise ValueError(f"max_logits: {logits.size} of them, for {sizes.size} sizes")
    if len(set(sizes)) < 2:
        raise ValueError(f"n_parameters={list(sizes)}: needs two different sizes")
    x, y = np.log(sizes), np.log(logits)
    # Centred: sums of squares of logarithms of large sizes would lose digits.
    away = x - x.mean()
    exponent = float(away @ (y - y.mean()) / (away @ away))
    intercept = float(y.mean() - exponent * x.mean())
    residual = y - intercept - exponent * x
    return LogitGrowth(exponent, intercept, float(np.sqrt(np.mean(residual**2))))


def predict_max_logit(growth: LogitGrowth, n_parameters: float | int) -> float:
    """Extrapolate the largest attention logit to a model of another size.

    Args:
      growth: from `fit_logit_growth`.
      n_parameters: the model's size, positive.

    Returns:
      The logit c N^p; beyond `LOGIT_LIMIT` queries and keys want normalising.

    Raises:
      ValueError: a size that is not positive.
    """
    if not 0 < n_parameters < math.inf:
        raise ValueError(f"n_parameters={n_parameters}: must be positive")
    return math.exp(growth.log_coefficient + growth.exponent * math.log(n_parameters))


def _positive(name: str, values: Numbers) -> np.ndarray:
    """Take a sequence of positive numbers, or name what is wrong with it."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: must be a sequence, has shape {array.shape}")
    wrong = array[~((array > 0) & np.isfinite(array))]
    if wrong.size:
        raise ValueError(f"{name}={wrong[0]:g}: must be positive and finite")
    return array
