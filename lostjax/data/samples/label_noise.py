"""Wrong labels by a confusion matrix: measured of people, or symmetric.

    confusion_ij = P(given label j | true label i)

The chance depends on the class alone, so that of two images of one class neither is
mistaken more easily. People's mistakes do depend on the image: noise from their matrix
has their classes' confusions, and not their hard images.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.typing import Array, Float, Int, Key


def estimate_confusion(
    true_B: Int[np.ndarray, "B"], given_B: Int[np.ndarray, "C"], *, n_classes: int
) -> Float[np.ndarray, "V V"]:
    """Estimate how often each class is given each label.

    Args:
      true_B: true classes (B,), in [0, n_classes), each class at least once.
      given_B: labels of the same examples (B,), in [0, n_classes).
      n_classes: V, at least 1.

    Returns:
      Shares (V, V), float32: entry (i, j) is of class i, labelled j; rows add up to 1.

    Raises:
      ValueError: shapes that differ, a class outside its range, or one without example.
    """
    if true_B.shape != given_B.shape:
        raise ValueError(f"given_B: shape {given_B.shape}, must be {true_B.shape}")
    for name, ids in (("true_B", true_B), ("given_B", given_B)):
        if ids.size and not 0 <= ids.min() <= ids.max() < n_classes:
            raise ValueError(f"{name}: must lie in [0, {n_classes})")
    counts_VV = np.zeros((n_classes, n_classes), np.float64)
    np.add.at(counts_VV, (true_B, given_B), 1)
    totals_V = counts_VV.sum(axis=1, keepdims=True)
    if not totals_V.all():
        raise ValueError(f"true_B: holds no example of class {np.argmin(totals_V)}")
    shares_VV: np.ndarray = (counts_VV / totals_V).astype(np.float32)
    return shares_VV


def symmetric_confusion(n_classes: int, *, rate: float) -> Float[np.ndarray, "V V"]:
    """Build the confusion of symmetric noise: all wrong classes are equally likely.

    Args:
      n_classes: V, at least 2.
      rate: share of labels that are wrong, in [0, 1].

    Returns:
      Shares (V, V), float32: 1 - rate on the diagonal, rate / (V - 1) off it. Some
      papers draw among all classes, the true one too: their rate r is r (V - 1) / V.

    Raises:
      ValueError: a number lies outside its range.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: must be at least 2")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must lie in [0, 1]")
    off = np.full((n_classes, n_classes), rate / (n_classes - 1), np.float32)
    np.fill_diagonal(off, 1 - rate)
    return off


def confuse_labels(
    labels_B: Int[Array, "B"] | Int[np.ndarray, "B"],
    confusion_VV: Float[Array, "V W"] | Float[np.ndarray, "V W"],
    *,
    key: Key,
) -> Int[Array, "B"]:
    """Draw labels with mistakes.

    Args:
      labels_B: true classes (B,), in [0, V).
      confusion_VV: shares (V, V), not negative, rows add up to 1. A traced one is not
        checked.
      key: decides the mistakes; may be traced.

    Returns:
      Labels (B,), int32.

    Raises:
      ValueError: the matrix is not square, or a row is no distribution.
    """
    if confusion_VV.ndim != 2 or len(set(confusion_VV.shape)) != 1:
        raise ValueError(f"confusion_VV: shape {confusion_VV.shape}, must be (V, V)")
    if not isinstance(confusion_VV, jax.core.Tracer):
        known = np.asarray(confusion_VV)
        if not (known >= 0).all() or not np.allclose(known.sum(axis=1), 1, atol=1e-5):
            raise ValueError("confusion_VV: every row must be >= 0 and add up to 1")
    logits_BV = jnp.log(jnp.asarray(confusion_VV))[labels_B]
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)
