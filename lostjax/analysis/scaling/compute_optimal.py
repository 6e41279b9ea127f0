"""The size and the tokens with the least loss for an amount of computing.

    min L(N, D)  with  c N D = C FLOPs          c = 6: a forward and a backward pass
    N = G (C / c)^(beta / (alpha + beta))
    D = (C / c)^(alpha / (alpha + beta)) / G
    G = (alpha A / (beta B))^(1 / (alpha + beta))

Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022,
arXiv:2203.15556, approach 3.
"""

from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling.laws import (
    LossLaw,
    predict_loss,
)
from lostjax.analysis.scaling.points import Amounts, as_array


class Allocation(NamedTuple):
    """How computing is best spent; arrays of the shape of the amounts."""

    n_params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    """Of the law there, nats."""


def compute_optimal(
    law: LossLaw, flops: Amounts, *, flops_per_token: float | int = 6.0
) -> Allocation:
    """Find the best size and number of tokens for an amount of computing.

    Args:
      law: constants of a family, all positive except for E.
      flops: floating-point operations C, positive, of any shape.
      flops_per_token: operations a parameter and token, c; 6 if attention is small
        beside the linear maps.

    Raises:
      ValueError: if an amount or a constant is not positive.
    """
    amounts = as_array(flops)
    if not (np.all(amounts > 0) and np.all(np.isfinite(amounts))):
        raise ValueError(f"flops={flops}: must be positive and finite")
    if not flops_per_token > 0:
        raise ValueError(f"flops_per_token={flops_per_token}: must be positive")
    if not min(law.A, law.B, law.alpha, law.beta) > 0:
        raise ValueError(f"law={law}: A, B, alpha and beta must be positive")
    total = law.alpha + law.beta
    # Logarithms: A and B of a steep law do not fit beside each other otherwise.
    ratio = np.log(law.alpha * law.A) - np.log(law.beta * law.B)
    pairs = np.log(amounts / flops_per_token)
    sizes = np.exp((ratio + law.beta * pairs) / total)
    seen = np.exp((law.alpha * pairs - ratio) / total)
    return Allocation(sizes, seen, predict_loss(law, n_params=sizes, tokens=seen))
