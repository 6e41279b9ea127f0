"""How well the loss of a family's largest model is forecast from its smaller ones.

    error = mean |law(N, D) - L| / L       over the target's last checkpoints

Choshen et al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024,
arXiv:2410.11840: the target is the largest model, its checkpoints are those from a
share q of its training on (the text defines tokens >= q max with q = .3, the authors'
code takes .7, which is the default here), and the law is fitted to checkpoints of the
smaller models after 10 billion tokens.
"""

from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling.forecasts import Fit
from lostjax.analysis.scaling.laws import (
    LossFit,
    absolute_relative_error,
    predict_loss,
)
from lostjax.analysis.scaling.loss_law import fit_loss_law
from lostjax.analysis.scaling.points import LossPoints, UnidentifiedLaw, cut_tokens


class Extrapolation(NamedTuple):
    """A law of smaller models, and what it says of the largest."""

    error: float
    """Mean absolute error relative to the loss, as a share."""
    fit: LossFit
    predicted: np.ndarray
    """Losses of the law at the target's last checkpoints, nats."""
    target: LossPoints
    """Those checkpoints."""


def extrapolation_study(
    points: LossPoints,
    *,
    fit: Fit = fit_loss_law,
    fewest_tokens: float | int = 1e10,
    train_fraction: float | int = 1.0,
    test_from: float | int = 0.7,
    n_models: int | None = None,
) -> Extrapolation:
    """Fit a law to the smaller models of a family, and score it on the largest.

    Args:
      points: checkpoints of one family.
      fit: fits the law.
      fewest_tokens: checkpoints of smaller models up to it are left out; 0 for none.
      train_fraction: share of each smaller run that is used, from its beginning, in
        (0, 1].
      test_from: share of the target's training from which on it is scored, in [0, 1).
      n_models: number of sizes that are used, the smallest first; default: all.

    Returns:
      The error, the fit, and predictions.

    Raises:
      UnidentifiedLaw: if there is no smaller model, or the law is not determined.
      ValueError: if a share is out of range.
    """
    if not 0 < train_fraction <= 1:
        raise ValueError(f"train_fraction={train_fraction}: must lie in (0, 1]")
    train, target = split_target(points, test_from=test_from)
    if n_models is not None:
        if n_models < 1:
            raise ValueError(f"n_models={n_models}: must be at least 1")
        train = train.take(np.isin(train.n_params, train.sizes[:n_models]))
    if train_fraction < 1:
        # Of each run's own length: the authors take a share of the longest run's.
        longest = np.array(
            [train.tokens[train.runs == run].max() for run in train.runs]
        )
        train = train.take(train.tokens <= train_fraction * longest)
    if fewest_tokens:
        train = cut_tokens(train, fewest=fewest_tokens)
    fitted = fit(train)
    predicted = predict_loss(fitted.law, n_params=target.n_params, tokens=target.tokens)
    error = absolute_relative_error(predicted, target.losses)
    return Extrapolation(error, fitted, predicted, target)


def split_target(
    points: LossPoints, *, test_from: float | int = 0.7
) -> tuple[LossPoints, LossPoints]:
    """Split a family into its smaller models and the last part of its largest.

    Args:
      points: checkpoints of one family.
      test_from: share of the largest number of tokens of the target from which on its
        checkpoints are returned, in [0, 1).

    Raises:
      UnidentifiedLaw: if there is a single size.
      ValueError: if the share is out of range.
    """
    if not 0 <= test_from < 1:
        raise ValueError(f"test_from={test_from}: must lie in [0, 1)")
    if len(points.sizes) < 2:
        raise UnidentifiedLaw("one model size is no family: there is no smaller model")
    largest = points.n_params == points.sizes[-1]
    target = points.take(largest)
    last = target.tokens >= test_from * target.tokens.max()
    return points.take(~largest), target.take(last)
