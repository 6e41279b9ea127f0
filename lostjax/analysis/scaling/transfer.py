"""The law of a new family from a single run, with the size's constants of another.

Choshen et al., "A Hitchhiker's Guide to Scaling Law Estimation", 2024,
arXiv:2410.11840: A and alpha are taken from other families, and E, B and beta are
fitted to the checkpoints of one model. The error grows with the distance to the target
(the authors report 15 to 37 % for OPT from 30 down to 8.7 billion parameters to 175).
"""

from collections.abc import Mapping

from lostjax.analysis.scaling.laws import (
    SQUARED_ERROR,
    LossFit,
    LossLaw,
    Objective,
)
from lostjax.analysis.scaling.loss_law import fit_loss_law
from lostjax.analysis.scaling.points import LossPoints


def transfer_law(
    points: LossPoints,
    *,
    source: LossLaw,
    objective: Objective = SQUARED_ERROR,
    start: LossLaw | None = None,
) -> LossFit:
    """Fit E, B and beta to a run of a new family; A and alpha are another family's.

    Args:
      points: checkpoints of one run, or of a few.
      source: law of the other family, with the same count of parameters and the same
        unit of loss.
      objective: what is minimised.
      start: law from which the solver starts; default: the best of a grid.

    Returns:
      The law of the new family.

    Raises:
      UnidentifiedLaw: if there are fewer than four checkpoints, or no change.
    """
    known: Mapping[str, float] = {"A": source.A, "alpha": source.alpha}
    return fit_loss_law(points, objective=objective, fixed=known, start=start)
