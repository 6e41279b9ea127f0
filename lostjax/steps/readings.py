"""Readings of a step that reveal an instability earlier than the loss does.

    attention_logits   largest |q . k| / sqrt(K) among unmasked positions, by layer
    mean_log_z         mean over tokens of the log-partition of the softmax
    *_rms              root mean square of each tensor's gradient (before clipping),
                       parameters (before the update) and update, by layer

A watched step is a separate compiled program that runs every N-th step, so the other
steps cost nothing extra. `lostjax.analysis.stability` explains the readings.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.trees import path_text, tensor_rms
from lostjax.typing import PyTree

STACKED = "layers"
"""Name of the subtree whose tensors have a leading axis of layers."""


class Readings(NamedTuple):
    """The readings of one watched step: float32 arrays, on devices or on the host."""

    attention_logits: Any
    """Largest absolute attention logit of each layer, (L,)."""
    mean_log_z: Any
    """Mean over tokens of log sum exp of the logits, a scalar."""
    gradient_rms: Mapping[str, Any]
    """RMS by path of the tensor: a scalar, or (L,) for stacked layers."""
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
    """Compute the readings of one step; pure.

    Args:
      seen: largest attention logits that the model sowed, concatenated along a leading
        axis of micro-batches.
      mean_log_z: mean log-partition over the batch's tokens, a scalar.
      gradients: gradients before clipping.
      parameters: parameters before the update.
      updates: values added to the parameters.

    Returns:
      The readings.
    """
    logits = [jnp.max(leaf, axis=0).ravel() for leaf in jax.tree.leaves(seen)]
    return Readings(
        # The empty array makes concatenate valid for a model that sows nothing.
        attention_logits=jnp.concatenate([jnp.zeros(0), *logits]),
        mean_log_z=mean_log_z,
        gradient_rms=rms_by_path(gradients),
        parameter_rms=rms_by_path(parameters),
        update_rms=rms_by_path(updates),
    )


def headline(readings: Readings) -> dict[str, float]:
    """Return the scalar readings, for the line of the step's metrics.

    Args:
      readings: readings on the host.

    Returns:
      `mean_log_z`, `smallest_gradient_rms` and, if the model sows attention logits,
      `max_attention_logit`.
    """
    logits = np.asarray(readings.attention_logits)
    smallest = min(float(np.min(x)) for x in readings.gradient_rms.values())
    numbers = {
        "mean_log_z": float(readings.mean_log_z),
        "smallest_gradient_rms": smallest,
    }
    return numbers | (
        {"max_attention_logit": float(logits.max())} if logits.size else {}
    )


def rms_by_path(tree: Mapping[str, PyTree]) -> dict[str, jax.Array]:
    """Compute the RMS of every tensor by its path; shape (L,) for stacked layers."""
    # Stacked layers keep their axis: one number over all layers would hide a bad one.
    parts = {name: part for name, part in tree.items() if name != STACKED}
    found = tensor_rms(parts)
    if STACKED in tree:
        found[STACKED] = tensor_rms(tree[STACKED], leading_axes=1)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {path_text(path): leaf for path, leaf in leaves}
