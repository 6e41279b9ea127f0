"""Alarms: readings that are out of bounds, before the loss shows it."""

import numpy as np

from lostjax.analysis import LOGIT_LIMIT
from lostjax.steps.readings import Readings
from lostjax.train.config.schema import OptimConfig

EPS_MARGIN = 10.0
"""A gradient whose root mean square is below so many epsilons is an alarm: Adam then
shrinks its update by a tenth or more."""


def find_alarms(
    readings: Readings, *, optim: OptimConfig, gradient_norm: float | int
) -> dict[str, str]:
    """Say in a line what in the readings is out of bounds.

    Args:
      readings: of a step.
      optim: the optimiser's epsilon, and its clipping: Adam sees gradients after it.
      gradient_norm: global norm of the step's gradients before clipping.

    Returns:
      Lines by kind of alarm, `logits` or `gradients`; empty where all is well.
    """
    clip, eps = optim.clip, optim.smallest_denominator
    scale = clip / gradient_norm if 0 < clip < gradient_norm else 1.0
    alarms = {}
    logits = np.asarray(readings.attention_logits)
    if not np.all(logits <= LOGIT_LIMIT):  # NaN is out of bounds, too
        layer = int(np.argmax(np.where(np.isnan(logits), np.inf, logits)))
        alarms["logits"] = (
            f"attention logits reach {logits[layer]:.3g} in layer {layer}, past "
            f"{LOGIT_LIMIT:g}: --model.qk-norm bounds them, a lower learning rate too"
        )
    rms = {
        path: scale * float(np.min(values))
        for path, values in readings.gradient_rms.items()
    }
    small = [path for path, value in rms.items() if value < EPS_MARGIN * eps]
    if small:
        worst = min(small, key=lambda path: rms[path])
        others = f" and {len(small) - 1} others" if len(small) > 1 else ""
        alarms["gradients"] = (
            f"gradients of {worst}{others} have a root mean square of {rms[worst]:.2g},"
            f" near --optim.eps={eps:g}: their updates vanish"
        )
    return alarms
