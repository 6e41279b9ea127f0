"""Build the terms of the objective besides cross entropy."""

from collections.abc import Mapping

import flax.linen as nn

from lostjax.steps.objective import Term
from lostjax.steps.terms import label_smoothing_term, log_partition_term
from lostjax.train.build.objectives.trajectory import Trajectory
from lostjax.train.config.schema import ObjectiveConfig


def build_terms(
    config: ObjectiveConfig, trajectory: Trajectory, *, model: nn.Module
) -> Mapping[str, Term]:
    """Build the terms that the configuration switches on.

    Args:
      config: see `ObjectiveConfig`; already checked.
      trajectory: the parts that `build_trajectory` made of `config.trajectory`.
      model: the model, bound to the mesh.

    Returns:
      Terms by the names of their metrics.
    """
    terms = trajectory.terms(model)
    if config.log_partition:
        terms["log_partition"] = log_partition_term(config.log_partition)
    if config.label_smoothing:
        terms["label_smoothing"] = label_smoothing_term(config.label_smoothing)
    return terms
