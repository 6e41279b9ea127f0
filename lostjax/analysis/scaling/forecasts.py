"""The loss of a larger model, with an interval that a person can plan by.

Checkpoints of one run share its initialisation, its order of the data and whatever its
learning rate did to the shape of its curve. Hundreds of them say little more than a
few, so an interval that takes them as independent is far too narrow. Here the residuals
of a fit are drawn again, and the law is fitted to each draw (a residual bootstrap with
moving blocks; B. Efron, 1979; H. R. Kuensch, 1989):

    log L*_ij = log law(N_ij, D_ij) + m*_i + d*_ij      run i, checkpoint j
    m*_i   ~ Normal(0, tau^2)              whole runs: tau^2 = max(floor^2, estimate)
    d*_ij  : blocks of consecutive residuals of run i, after their mean
    forecast = law*(N, D) exp(m* + d*)     the target is a run with a deviation, too

Runs are not drawn with replacement: with a run a size, as is usual, a draw of three
sizes out of four would often hold two, which determine no law. A run's own deviation
cannot be told from the law if there are as many sizes as constants of the size; then
tau is `run_spread`, the deviation that equal runs with other seeds have.

The interval does not hold what the law itself gets wrong: another learning rate,
another shape of model, a schedule that is not finished, data that repeat, or a loss
that does not follow this law at larger sizes.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from lostjax.analysis.scaling.laws import (
    LossFit,
    LossLaw,
    predict_loss,
)
from lostjax.analysis.scaling.loss_law import fit_loss_law
from lostjax.analysis.scaling.points import LossPoints, Numbers, require_positive
from lostjax.typing import Float

_OF_SIZE = 3  # constants that sizes determine: E, A, alpha


@runtime_checkable
class Fit(Protocol):
    """Fits a law: `fit_loss_law`, or a `functools.partial` of it."""

    def __call__(
        self, points: LossPoints, /, *, start: LossLaw | None = None
    ) -> LossFit: ...


class Forecast(NamedTuple):
    """Losses that are expected at larger sizes or later in training."""

    loss: Float[np.ndarray, "Q"]
    """Of the fitted law, nats."""
    low: Float[np.ndarray, "Q"]
    """Lower end of the interval of the loss that will be measured."""
    high: Float[np.ndarray, "Q"]
    """Upper end."""
    fit: LossFit
    """The law and its warnings."""
    run_spread: float
    """tau: standard deviation of a run around the law, relative to the loss."""
    laws: tuple[LossLaw, ...]
    """Laws of the draws."""


def forecast_loss(
    points: LossPoints,
    *,
    n_params: Numbers,
    tokens: Numbers,
    fit: Fit = fit_loss_law,
    level: float | int = 0.9,
    n_draws: int = 200,
    n_blocks: int = 4,
    run_spread: float | int = 0.01,
    seed: int = 0,
) -> Forecast:
    """Forecast losses from the runs of smaller models, with an interval each.

    Args:
      points: checkpoints of the smaller models.
      n_params: size of each target, positive.
      tokens: tokens seen by each target, positive.
      fit: fits the law, such as `partial(fit_loss_law, prior=...)`.
      level: probability that the interval is meant to have, in (0, 1).
      n_draws: draws of the bootstrap, at least 20.
      n_blocks: blocks that a run's residuals are cut into, at least 1; fewer keep
        longer correlations.
      run_spread: smallest standard deviation of equal runs with other seeds, relative
        to the loss; the default is 1 %.
      seed: of the draws.

    Returns:
      The forecasts; each takes one fit a draw together, some seconds in all.

    Raises:
      UnidentifiedLaw: if the points do not determine the law.
      ValueError: if an argument is out of range.
    """
    sizes, seen = (
        require_positive("n_params", n_params),
        require_positive("tokens", tokens),
    )
    if sizes.shape != seen.shape:
        raise ValueError(f"tokens: got {seen.size} for {sizes.size} n_params")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")
    if n_draws < 20 or n_blocks < 1:
        raise ValueError(
            f"n_draws={n_draws}, n_blocks={n_blocks}: must be at least 20 and 1"
        )
    if not run_spread >= 0:
        raise ValueError(f"run_spread={run_spread}: must be 0 or more")
    fitted = fit(points)
    means, inner = _split_residuals(points, fitted.residuals)
    tau = max(run_spread, _estimate_spread(points, means))
    noise = float(np.sqrt(np.mean(inner**2)))
    rng = np.random.default_rng(seed)
    middle = predict_loss(fitted.law, n_params=points.n_params, tokens=points.tokens)
    laws, losses = [], np.empty((n_draws, sizes.size))
    for draw in range(n_draws):
        moved = tau * rng.standard_normal(len(means))[points.runs]
        moved += _draw_blocks(points, inner, n_blocks=n_blocks, rng=rng)
        again = points._replace(losses=middle * np.exp(moved))
        law = fit(again, start=fitted.law).law
        laws.append(law)
        own = tau * rng.standard_normal() + noise * rng.standard_normal(sizes.size)
        losses[draw] = predict_loss(law, n_params=sizes, tokens=seen) * np.exp(own)
    low, high = np.quantile(losses, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Forecast(
        loss=predict_loss(fitted.law, n_params=sizes, tokens=seen),
        low=low,
        high=high,
        fit=fitted,
        run_spread=tau,
        laws=tuple(laws),
    )


def _split_residuals(
    points: LossPoints, residuals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split residuals into the mean of each run and what is left."""
    counts = np.bincount(points.runs)
    means = np.bincount(points.runs, residuals) / np.maximum(counts, 1)
    return means, residuals - means[points.runs]


def _estimate_spread(points: LossPoints, means: np.ndarray) -> float:
    """Estimate the standard deviation of runs; 0 if the law fits each by itself."""
    present = np.unique(points.runs)
    freedom = len(present) - min(_OF_SIZE, len(points.sizes))
    if freedom < 1:
        return 0.0
    return float(np.sqrt(np.sum(means[present] ** 2) / freedom))


def _draw_blocks(
    points: LossPoints,
    inner: np.ndarray,
    *,
    n_blocks: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw each run's residuals again in blocks of consecutive checkpoints."""
    drawn = np.empty_like(inner)
    for run in np.unique(points.runs):
        places = np.flatnonzero(points.runs == run)
        places = places[np.argsort(points.tokens[places], kind="stable")]
        count = len(places)
        length = -(-count // n_blocks)
        # Circular: every residual is in as many blocks as any other.
        begins = rng.integers(count, size=-(-count // length))
        chosen = (begins[:, None] + np.arange(length)).ravel()[:count] % count
        # A block keeps its sign or not: the mean of a few blocks is then no bias.
        signs = np.repeat(rng.choice([-1.0, 1.0], size=len(begins)), length)[:count]
        drawn[places] = inner[places[chosen]] * signs
    return drawn
