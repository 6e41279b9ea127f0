"""What is minimised besides cross entropy: from configuration to the step's terms."""

from collections.abc import Mapping

import flax.linen as nn
import optax

from lostjax.steps.terms import label_smoothing_term, log_partition_term
from lostjax.losses import log_partition_penalty, smoothing_penalty
from lostjax.train.config.schema import ObjectiveConfig
from lostjax.steps.gradient import Term
from lostjax.train.build.trajectory import Trajectory


def build_terms(
    config: ObjectiveConfig, trajectory: Trajectory, *, model: nn.Module
) -> Mapping[str, Term]:
    """Build the terms that have a weight.

    Args:
      config: see `ObjectiveConfig`; already checked.
      trajectory: what its trajectory fields came to.
      model: as it lies on the mesh.

    Returns:
      Terms by the names of their metrics.
    """
    terms = trajectory.terms(model)
    if config.log_partition:
        terms["log_partition"] = log_partition_term(config.log_partition)
    if config.label_smoothing:
        terms["label_smoothing"] = label_smoothing_term(config.label_smoothing)
    return terms




