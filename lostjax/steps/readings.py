"""Readings of a step that show an instability before the loss does, and their alarms.

    attention_logits   largest |q . k| / sqrt(K) that counts, by layer
    mean_log_z         mean log of the softmax's partition function over tokens
    *_rms              root mean square of every tensor's gradient (before clipping),
                       parameters (before the update) and update, by layer

A watched step is a program of its own, run at every N-th step: others stay as they
are. What the readings mean: `lostjax.analysis.stability`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import LOGIT_LIMIT, tensor_rms
from lostjax.train.config.schema import OptimConfig
from lostjax.train.devices.mesh import path_text
from lostjax.typing import PyTree

EPS_MARGIN = 10.0
"""A gradient whose root mean square is below so many epsilons is an alarm: Adam then
shrinks its update by a tenth or more."""
STACKED = "layers"
"""The subtree whose tensors lead with an axis of layers."""


class Readings(NamedTuple):
    """What a watched step tells; float32 arrays, on devices or read from them."""

    attention_logits: Any
    """Largest size of an attention logit, one a layer (L,)."""
    mean_log_z: Any
    """Mean of log sum exp of the logits over tokens, a scalar."""
    gradient_rms: Mapping[str, Any]
    """By the tensor's path: a scalar, or one value a layer (L,)."""
    parameter_rms: Mapping[str, Any]
    update_rms: Mapping[str, Any]


def take_readings(
    seen: PyTree,
    *,
    mean_log_z: jax.Array,
    gradients: PyTree,
    parameters: PyTree,
    updates: PyTree,
) -> Readings:
    """Take the readings of one step; pure.

    Args:
      seen: largest attention logits that the model sowed, joined on a leading axis of
        micro-batches.
      mean_log_z: over the batch's tokens.
      gradients: before clipping.
      parameters: before the update.
      updates: what is added to the parameters.
    """
    logits = [jnp.max(leaf, axis=0).ravel() for leaf in jax.tree.leaves(seen)]
    return Readings(
        attention_logits=jnp.concatenate([jnp.zeros(0), *logits]),
        mean_log_z=mean_log_z,
        gradient_rms=rms_by_path(gradients),
        parameter_rms=rms_by_path(parameters),
        update_rms=rms_by_path(updates),
    )


def headline(readings: Readings) -> dict[str, float]:
    """Give the readings that are one number, for the line of the step's metrics."""
    logits = np.asarray(readings.attention_logits)
    smallest = min(float(np.min(x)) for x in readings.gradient_rms.values())
    numbers = {
        "mean_log_z": float(readings.mean_log_z),
        "smallest_gradient_rms": smallest,
    }
    return numbers | (
        {"max_attention_logit": float(logits.max())} if logits.size else {}
    )


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
    clip, eps = optim.clip, 0.0 if optim.name == "sign_sgd" else optim.eps
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


def rms_by_path(tree: Mapping[str, PyTree]) -> dict[str, jax.Array]:
    """Give every tensor's root mean square by its path; (L,) of stacked layers."""
    parts = {name: part for name, part in tree.items() if name != STACKED}
    found = tensor_rms(parts)
    if STACKED in tree:
        found[STACKED] = tensor_rms(tree[STACKED], leading_axes=1)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {path_text(path): leaf for path, leaf in leaves}
