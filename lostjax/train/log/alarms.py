"""Raise alarms for readings that are out of bounds, before the loss shows it."""

import numpy as np

from lostjax.analysis import LOGIT_LIMIT
from lostjax.steps.readings import Readings
from lostjax.train.config.schema import OptimConfig

EPS_MARGIN = 10.0
"""A gradient raises an alarm if its root mean square is below this many epsilons: Adam
then shrinks its update by a tenth or more."""


def find_alarms(
    readings: Readings, *, optim: OptimConfig, gradient_norm: float | int
) -> dict[str, str]:
    """Find the readings that are out of bounds.

    Args:
      readings: the readings of one step.
      optim: its epsilon and its clipping, after which Adam reads the gradients.
      gradient_norm: global norm of the step's gradients before clipping.

    Returns:
      One line of text by kind of alarm, `logits` or `gradients`; empty without alarms.
    """
    clip, eps = optim.clip, optim.smallest_denominator
    scale = clip / gradient_norm if 0 < clip < gradient_norm else 1.0
    alarms = {}
    logits = np.asarray(readings.attention_logits)
    if not np.all(logits <= LOGIT_LIMIT):  # true for NaN too
        layer = int(np.argmax(np.where(np.isnan(logits), np.inf, logits)))
        alarms["logits"] = (
            f"attention logits reach {logits[layer]:.3g} in layer {layer}, above "
            f"{LOGIT_LIMIT:g}: --model.qk-norm bounds them, and a lower learning rate "
            "slows their growth"
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
