"""What tokens are worth that are seen again.

    D' = U + U r (1 - exp(-(D / U - 1) / r))             D tokens, U of them different
    N' = M + M s (1 - exp(-(N / M - 1) / s))             M: optimal size for U tokens
    L(N, D, U) = E + A / N'^alpha + B / D'^beta

r is the number of repetitions after which another is worth 1/e of a new token, so that
repeating for ever is worth r more passes; s is the same for parameters in excess of
what U tokens can use. Muennighoff et al., "Scaling Data-Constrained Language Models",
2023, arXiv:2305.16264, whose fit has r = 15.4 and s = 5.3.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from lostjax.analysis.scaling.laws import (
    LossLaw,
    predict_loss,
)
from lostjax.analysis.scaling.points import (
    Amounts,
    LossPoints,
    UnidentifiedLaw,
    as_array,
    require_positive,
)

TOKEN_DECAY = 15.387756
"""r of Muennighoff et al."""

PARAMETER_DECAY = 5.309743
"""s of Muennighoff et al."""


def effective_tokens(
    tokens: Amounts,
    *,
    unique: Amounts,
    decay: float | int = TOKEN_DECAY,
) -> np.ndarray:
    """Compute how many new tokens repeated ones are worth.

    Args:
      tokens: seen tokens D, positive.
      unique: different tokens U, positive, of a shape that fits.
      decay: repetitions r, positive.

    Returns:
      D', at most D and at most U (1 + r); D as long as nothing is repeated.
    """
    return _saturate(tokens, unique, decay)


def effective_params(
    n_params: Amounts,
    *,
    law: LossLaw,
    unique: Amounts,
    decay: float | int = PARAMETER_DECAY,
) -> np.ndarray:
    """Compute how many parameters a model has in effect if its tokens are few.

    Args:
      n_params: parameters N, positive.
      law: of runs without repetition.
      unique: different tokens U, positive.
      decay: s, positive.
    """
    total = law.alpha + law.beta
    ratio = (np.log(law.alpha * law.A) - np.log(law.beta * law.B)) / total
    # The size whose compute-optimal number of tokens is U.
    useful = np.exp(ratio + law.beta / law.alpha * (np.log(unique) + ratio))
    return _saturate(n_params, useful, decay)


def predict_repeated_loss(
    law: LossLaw,
    *,
    n_params: Amounts,
    tokens: Amounts,
    unique: Amounts,
    token_decay: float | int = TOKEN_DECAY,
    parameter_decay: float | int = PARAMETER_DECAY,
) -> np.ndarray:
    """Compute the loss of a law if tokens are repeated.

    Args:
      law: of runs without repetition.
      n_params: parameters N, positive.
      tokens: seen tokens D, positive.
      unique: different tokens U, positive.
      token_decay: r, positive.
      parameter_decay: s, positive.

    Returns:
      The loss, nats per token.
    """
    return predict_loss(
        law,
        n_params=effective_params(
            n_params, law=law, unique=unique, decay=parameter_decay
        ),
        tokens=effective_tokens(tokens, unique=unique, decay=token_decay),
    )


def fit_token_decay(points: LossPoints, *, law: LossLaw, unique: np.ndarray) -> float:
    """Fit the worth of repetitions to runs that repeat their tokens.

    Args:
      points: checkpoints of such runs.
      law: of runs without repetition; sizes are taken as they are.
      unique: different tokens of each point's run, positive.

    Returns:
      r with the least squared error of the loss, between 0.01 and 10,000.

    Raises:
      UnidentifiedLaw: if no point has repeated tokens.
      ValueError: if the numbers of tokens are not one per point.
    """
    different = require_positive("unique", unique)
    if different.shape != points.tokens.shape:
        raise ValueError(
            f"unique: got {different.size} for {points.tokens.size} points"
        )
    if not np.any(points.tokens > different * 1.001):
        raise UnidentifiedLaw("no point has repeated tokens")

    def error(log_decay: float) -> float:
        worth = effective_tokens(
            points.tokens, unique=different, decay=float(np.exp(log_decay))
        )
        away = predict_loss(law, n_params=points.n_params, tokens=worth) - points.losses
        return float(away @ away)

    # A grid first: far from the data the error is flat on either side.
    grid = np.linspace(np.log(1e-2), np.log(1e4), 40)
    best = int(np.argmin([error(each) for each in grid]))
    bounds = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = minimize_scalar(error, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def _saturate(amount: Amounts, base: Amounts, decay: float) -> np.ndarray:
    """Compute the amount in effect, of which more than the base counts less."""
    if not decay > 0:
        raise ValueError(f"decay={decay}: must be positive")
    amounts, bases = as_array(amount), as_array(base)
    extra = np.maximum(amounts / bases - 1, 0)
    # expm1: one repetition with a slow decay is worth nearly a whole one.
    worth = bases * (1 - decay * np.expm1(-extra / decay))
    return np.asarray(np.minimum(amounts, worth))
