"""Loss by size, steps and batch: from small runs to the constants of a larger one's.

    L(N)      = (N_c / N)^alpha_N                     converged, N without embeddings
    B_crit(L) = (L_B / L)^(1 / alpha_B)               tokens: the critical batch
    S_min     = S / (1 + B_crit(L) / B)               steps at a very large batch
    E_min     = S B / (1 + B / B_crit(L))             tokens at a very small one
    L(N, S, B) = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S

so that (S / S_min - 1)(S B / E_min - 1) = 1. The forms are those of McCandlish et al.,
"An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162, and Kaplan et al.,
"Scaling Laws for Neural Language Models", 2020, arXiv:2001.08361; Su et al.,
"Unraveling the Mystery of Scaling Laws: Part I", 2024, arXiv:2403.06563, fit them to
models of at most 60 million parameters and predict the loss curve of 33 billion. Their
order of fits and their constants could not be read; the order here is:

1. `fit_model_size_law` to the final losses of converged runs of several sizes;
2. `fit_batch_tradeoff` at each of several levels of the loss, over batches;
3. `fit_critical_batch` to what it found at those levels;
4. `fit_step_law` to all points of all curves.

Constants depend on data, context, learning rate and its schedule; exponents less.
Float64 NumPy on the host.
"""

from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling.points import (
    Amounts,
    Numbers,
    UnidentifiedLaw,
    as_array,
    require_positive,
)


class PowerLaw(NamedTuple):
    """y = (scale / x)^exponent."""

    scale: float
    """x at which y is 1."""
    exponent: float
    """How fast y falls with x; negative if it rises."""


class BatchTradeoff(NamedTuple):
    """Steps against tokens to one loss: (S / S_min - 1)(E / E_min - 1) = 1."""

    min_steps: float
    """S_min: steps at a very large batch."""
    min_tokens: float
    """E_min: tokens at a very small batch."""
    critical_batch: float
    """E_min / S_min, tokens: at this batch twice the least of both are needed."""


class StepLaw(NamedTuple):
    """Constants of L(N, S, B)."""

    size: PowerLaw
    """Converged loss by the number of parameters."""
    batch: PowerLaw
    """Critical batch, in tokens, by the loss."""
    step: PowerLaw
    """What is added to the converged loss by S_min."""


def fit_model_size_law(n_params: Numbers, final_losses: Numbers) -> PowerLaw:
    """Fit the loss of converged models by their size, by a line in the logarithms.

    Args:
      n_params: parameters without embeddings, positive, two or more different.
      final_losses: loss of each, nats, positive.

    Returns:
      The law L = (N_c / N)^alpha_N.

    Raises:
      UnidentifiedLaw: if there is a single size, or larger models are not better.
      ValueError: if a value is not positive and finite, or lengths differ.
    """
    law = _fit_line("n_params", n_params, "final_losses", final_losses)
    if not law.exponent > 0:
        raise UnidentifiedLaw("larger models do not have a lower final loss")
    return law


def fit_batch_tradeoff(batch: Numbers, steps: Numbers) -> BatchTradeoff:
    """Fit steps against batch to one loss: S = S_min + E_min / B, a line in 1 / B.

    Each point is weighed by 1 / S: errors are relative.

    Args:
      batch: tokens a step, positive, two or more different; three to see an error.
      steps: steps to the loss at each batch, positive.

    Returns:
      The least steps and tokens, and the critical batch.

    Raises:
      UnidentifiedLaw: if there is a single batch, steps do not fall with the batch, or
        the least of either is not positive: the batches are then all far above or all
        far below the critical one.
      ValueError: if a value is not positive and finite, or lengths differ.
    """
    sizes, taken = _pair("batch", batch, "steps", steps)
    columns = np.stack([1 / taken, 1 / (sizes * taken)], axis=1)
    # Columns of one length: 1 / B is millions of times smaller than 1.
    lengths = np.linalg.norm(columns, axis=0)
    found, *_ = np.linalg.lstsq(columns / lengths, np.ones_like(taken), rcond=None)
    min_steps, min_tokens = map(float, found / lengths)
    for name, value, side in (
        ("steps", min_steps, "below"),
        ("tokens", min_tokens, "above"),
    ):
        if not value > 0:
            raise UnidentifiedLaw(
                f"the least {name} come out as {value:.3g}: all batches are far {side} "
                "the critical one, or steps are too noisy"
            )
    return BatchTradeoff(min_steps, min_tokens, min_tokens / min_steps)


def fit_critical_batch(losses: Numbers, critical_batches: Numbers) -> PowerLaw:
    """Fit the critical batch by the loss, by a line in the logarithms.

    Args:
      losses: levels of the loss, nats, positive, two or more different.
      critical_batches: tokens, of `fit_batch_tradeoff` at each level.

    Returns:
      The law B_crit = (L_B / L)^(1 / alpha_B); it falls with the loss, since gradients
      are noisier at the end of training.

    Raises:
      UnidentifiedLaw: if there is a single level.
      ValueError: if a value is not positive and finite, or lengths differ.
    """
    return _fit_line("losses", losses, "critical_batches", critical_batches)


def fit_step_law(
    *,
    n_params: Numbers,
    steps: Numbers,
    batch: Numbers,
    losses: Numbers,
    size: PowerLaw,
    critical_batch: PowerLaw,
) -> StepLaw:
    """Fit what is added to the converged loss by the number of steps.

    Args:
      n_params: parameters without embeddings of each point's model.
      steps: steps up to each point.
      batch: tokens a step.
      losses: loss there, nats. Points at or below the converged loss of their model
        are left out, since they have no logarithm.
      size: the converged loss.
      critical_batch: tokens by the loss.

    Returns:
      All constants.

    Raises:
      UnidentifiedLaw: if fewer than two points are above the converged loss, or the
        loss does not fall with the steps.
      ValueError: if a value is not positive and finite, or lengths differ.
    """
    found = [
        require_positive(name, values)
        for name, values in (
            ("n_params", n_params),
            ("steps", steps),
            ("batch", batch),
            ("losses", losses),
        )
    ]
    if len({values.size for values in found}) > 1:
        raise ValueError(f"losses: got {found[3].size} for {found[0].size} n_params")
    sizes, taken, tokens, values = found
    above = values - evaluate_power(size, sizes)
    kept = above > 1e-6 * values
    if len(set(taken[kept])) < 2:
        raise UnidentifiedLaw("fewer than two points are above the converged loss")
    needed = evaluate_power(critical_batch, values)
    least = taken / (1 + needed / tokens)
    step = _fit_line("steps", least[kept], "losses", above[kept])
    if not step.exponent > 0:
        raise UnidentifiedLaw("the loss does not fall with the number of steps")
    return StepLaw(size=size, batch=critical_batch, step=step)


def critical_batch(law: StepLaw, loss: Amounts) -> np.ndarray:
    """Compute the critical batch at a loss, tokens."""
    return evaluate_power(law.batch, as_array(loss))


def min_steps(law: StepLaw, *, n_params: Amounts, loss: Amounts) -> np.ndarray:
    """Compute the least steps to a loss, at a very large batch.

    Args:
      law: all constants.
      n_params: parameters without embeddings, positive.
      loss: nats, of a shape that fits.

    Returns:
      S_min; infinity if the loss is not above the converged loss of that size.
    """
    above = as_array(loss) - evaluate_power(law.size, as_array(n_params))
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = law.step.scale * above ** (-1 / law.step.exponent)
    return np.asarray(np.where(above > 0, steps, np.inf))


def min_tokens(law: StepLaw, *, n_params: Amounts, loss: Amounts) -> np.ndarray:
    """Compute the least tokens to a loss, at a very small batch; see `min_steps`."""
    steps = min_steps(law, n_params=n_params, loss=loss)
    return np.asarray(steps * critical_batch(law, loss))


def evaluate_power(law: PowerLaw, x: np.ndarray) -> np.ndarray:
    """Compute (scale / x)^exponent, through logarithms."""
    return np.asarray(np.exp(law.exponent * (np.log(law.scale) - np.log(x))))


def _fit_line(x_name: str, x: Numbers, y_name: str, y: Numbers) -> PowerLaw:
    """Fit a power law by least squares of logarithms."""
    places, values = _pair(x_name, x, y_name, y)
    at, height = np.log(places), np.log(values)
    # Centre first: logarithms of large sizes are close to each other, and sums of their
    # squares would cancel.
    away = at - at.mean()
    slope = float(away @ (height - height.mean()) / (away @ away))
    if slope == 0:
        raise UnidentifiedLaw(f"{y_name} do not change with {x_name}")
    return PowerLaw(float(np.exp(at.mean() - height.mean() / slope)), -slope)


def _pair(
    x_name: str, x: Numbers, y_name: str, y: Numbers
) -> tuple[np.ndarray, np.ndarray]:
    """Check two sequences of one length, the first with two different values."""
    places, values = require_positive(x_name, x), require_positive(y_name, y)
    if places.shape != values.shape:
        raise ValueError(f"{y_name}: got {values.size} for {places.size} {x_name}")
    if len(set(places)) < 2:
        raise UnidentifiedLaw(f"{x_name}: needs two different values")
    return places, values
