"""The loss of a model of N parameters after D tokens, and the fit of its constants.

    L(N, D) = E + A / N^alpha + B / D^beta

E is what no model of the family can avoid, A / N^alpha what a larger model would, and
B / D^beta what more tokens would. Hoffmann et al., "Training Compute-Optimal Large
Language Models", 2022, arXiv:2203.15556, minimise a Huber loss of log L; Choshen et
al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024, arXiv:2410.11840, the
squared error of L, over all checkpoints of smaller models.

The authors start one solver at constants of another family. Here E, A and B are solved
for on a grid of exponents, where they are linear, and the best are refined; starts that
end elsewhere, and constants at their bounds, are reported. Everything is float64 NumPy:
float32 cannot hold the powers of 10^10 tokens to the digits that a fit needs. Both
terms are taken at the geometric mean of N and D while they are fitted, because A and
alpha are nearly one constant otherwise.

A prior makes a fit of few sizes unique, by pulling the constants towards those of
another family: the paper's fixed start does this by accident.
"""

from collections.abc import Mapping

import numpy as np

from lostjax.analysis.scaling.laws import (
    CONSTANTS,
    SQUARED_ERROR,
    LawPrior,
    LossFit,
    LossLaw,
    Objective,
)
from lostjax.analysis.scaling.points import LossPoints, UnidentifiedLaw
from lostjax.analysis.scaling.search import Problem

_FLAT = 1e-6  # relative range of a loss that does not change


def fit_loss_law(
    points: LossPoints,
    *,
    objective: Objective = SQUARED_ERROR,
    fixed: Mapping[str, float | int] | None = None,
    prior: LawPrior | None = None,
    start: LossLaw | None = None,
) -> LossFit:
    """Fit the constants of a law to points of loss curves.

    Args:
      points: of one family: one corpus, one tokenizer, one recipe.
      objective: what is minimised: `SQUARED_ERROR` or `log_huber()`.
      fixed: constants that are known, by name.
      prior: constants of other families; with it any points determine a law.
      start: law from which the solver starts; default: the best of a grid.

    Returns:
      The law, with warnings if it must not be extrapolated.

    Raises:
      UnidentifiedLaw: without a prior, if the points cannot determine the constants:
        too few points, sizes or numbers of tokens, tokens proportional to a power of
        the size, or a constant loss.
      ValueError: if a fixed constant is unknown or not positive.

    Example:
      points = make_points(n_params=[..], tokens=[..], losses=[..])
      predict_loss(fit_loss_law(points).law, n_params=7e9, tokens=2e12)
    """
    known = dict(fixed or {})
    for name, value in known.items():
        if name not in CONSTANTS or not 0 < value < np.inf:
            raise ValueError(
                f"fixed={{{name!r}: {value}}}: must be a positive value of one of "
                f"{', '.join(CONSTANTS)}"
            )
    if prior is None:
        require_identified(points, fixed=known)
    problem = Problem(points, objective, known, prior)
    if start is None:
        found = [problem.solve(one) for one in problem.grid()]
    else:
        # From a law nearby; along a flat valley a draw would creep for seconds.
        found = [problem.solve(problem.encode(start), evaluations=100)]
    found.sort(key=lambda one: one.cost)
    return problem.describe(found[0], [one.cost for one in found])


def require_identified(
    points: LossPoints, *, fixed: Mapping[str, float | int] | None = None
) -> None:
    """Check that points can determine the constants of a law that are not fixed.

    Raises:
      UnidentifiedLaw: with the reason.
    """
    known = set(fixed or {})
    of_size = len({"E", "A", "alpha"} - known)
    of_tokens = len({"E", "B", "beta"} - known)
    sizes, seen = points.sizes, np.unique(points.tokens)
    free = len(set(CONSTANTS) - known)
    places = len({*zip(points.n_params, points.tokens, strict=True)})
    if len({"A", "alpha"} - known) and len(sizes) < of_size:
        raise UnidentifiedLaw(
            f"{len(sizes)} model size(s) for {of_size} constants of the size; train "
            "another size, or fix alpha and A to those of another family"
        )
    if len({"B", "beta"} - known) and len(seen) < of_tokens:
        raise UnidentifiedLaw(
            f"{len(seen)} number(s) of tokens for {of_tokens} constants of the tokens; "
            "add earlier checkpoints"
        )
    if places <= free:
        raise UnidentifiedLaw(
            f"{places} different points for {free} constants: needs {free + 1} or more"
        )
    losses = points.losses
    if np.ptp(losses) <= _FLAT * losses.max():
        raise UnidentifiedLaw("the loss is the same at all points")
    x, y = np.log(points.n_params), np.log(points.tokens)
    if len(sizes) > 1 and len(seen) > 1 and abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-9:
        raise UnidentifiedLaw(
            "tokens are a power of the model's size at all points, so that their terms "
            "cannot be told apart; add earlier checkpoints"
        )
