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

from lostjax.trees import path_text, tensor_rms
from lostjax.typing import PyTree

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


def rms_by_path(tree: Mapping[str, PyTree]) -> dict[str, jax.Array]:
    """Give every tensor's root mean square by its path; (L,) of stacked layers."""
    parts = {name: part for name, part in tree.items() if name != STACKED}
    found = tensor_rms(parts)
    if STACKED in tree:
        found[STACKED] = tensor_rms(tree[STACKED], leading_axes=1)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {path_text(path): leaf for path, leaf in leaves}
