"""Scores of predicted classes, from a confusion matrix; rows are the true classes.

    balanced accuracy = mean over classes of C_kk / sum_j C_kj
    F1 of class k     = 2 C_kk / (sum_j C_kj + sum_i C_ik)
    macro F1          = mean over classes of F1
    micro F1          = F1 of the summed counts of classes
    Matthews          = (sum_k C_kk s - n_k m_k) / sqrt((s^2 - n.n)(s^2 - m.m))

with n_k the examples of class k, m_k the predictions of it and s all examples. The
last is the correlation of the one-hot labels with the one-hot predictions: Matthews
("Comparison of the predicted and observed secondary structure of T4 phage lysozyme",
1975) for two classes, Gorodkin ("Comparing two K-category assignments by a K-category
correlation coefficient", 2004) for more.

Definitions are scikit-learn's, with one exception: a score without a value (a class
that neither occurs nor is predicted) is NaN and no 0. Classes are compared as they
are; take `jnp.argmax` of logits first, or a threshold. Functions are pure and run
under `jax.jit` and `jax.vmap`; a traced class outside [0, n_classes) is left out.

Cost: B additions and n_classes^2 integers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import (
    nan_if,
    require_classes,
    require_examples,
    require_shape,
)
from lostjax.typing import Array, Float, Int


def confusion_matrix(
    predicted_B: Int[ArrayLike, "B"], labels_B: Int[ArrayLike, "B"], *, n_classes: int
) -> Int[Array, "V V"]:
    """Count how often each class was predicted for each true class.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1.

    Returns:
      Counts (V, V), int32: entry (i, j) counts examples of class i predicted as j.
      Counts of batches add up to those of their union.

    Raises:
      ValueError: no example, shapes that differ, or a class outside its range.
    """
    predicted_B, labels_B = jnp.asarray(predicted_B), jnp.asarray(labels_B)
    if n_classes < 1:
        raise ValueError(f"n_classes={n_classes}: must be at least 1")
    require_examples("predicted_B", predicted_B)
    require_shape("labels_B", labels_B, predicted_B.shape)
    require_classes("predicted_B", predicted_B, n_classes)
    require_classes("labels_B", labels_B, n_classes)
    # A scatter drops what is past the end, but would count -1 from the end.
    row_B = jnp.where(labels_B < 0, n_classes, labels_B)
    column_B = jnp.where(predicted_B < 0, n_classes, predicted_B)
    counts_VV = jnp.zeros((n_classes, n_classes), jnp.int32)
    return counts_VV.at[row_B, column_B].add(1, mode="drop")


def balanced_accuracy(
    predicted_B: Int[ArrayLike, "B"], labels_B: Int[ArrayLike, "B"], *, n_classes: int
) -> Float[Array, ""]:
    """Compute the mean over classes of the share that is predicted right.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1.

    Returns:
      In [0, 1], float32; the mean is over classes that occur in `labels_B`.

    Raises:
      ValueError: as `confusion_matrix`.
    """
    counts_VV = confusion_matrix(predicted_B, labels_B, n_classes=n_classes)
    total_V = jnp.sum(counts_VV, axis=1)
    return jnp.nanmean(jnp.diagonal(counts_VV) / total_V)  # 0 / 0 is NaN


def class_f1(
    predicted_B: Int[ArrayLike, "B"], labels_B: Int[ArrayLike, "B"], *, n_classes: int
) -> Float[Array, "V"]:
    """Compute the F1 score of each class.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1; 2 for a yes or no, whose F1 is entry 1.

    Returns:
      (V,), float32, in [0, 1]; NaN for a class that neither occurs nor is predicted.

    Raises:
      ValueError: as `confusion_matrix`.
    """
    counts_VV = confusion_matrix(predicted_B, labels_B, n_classes=n_classes)
    either_V = jnp.sum(counts_VV, axis=0) + jnp.sum(counts_VV, axis=1)
    scores_V: jax.Array = 2 * jnp.diagonal(counts_VV) / either_V
    return scores_V


def macro_f1(
    predicted_B: Int[ArrayLike, "B"], labels_B: Int[ArrayLike, "B"], *, n_classes: int
) -> Float[Array, ""]:
    """Compute the mean F1 score over classes, rare ones counting like common ones.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1.

    Returns:
      In [0, 1], float32; the mean is over classes that occur or are predicted.

    Raises:
      ValueError: as `confusion_matrix`.
    """
    return jnp.nanmean(class_f1(predicted_B, labels_B, n_classes=n_classes))


def micro_f1(
    predicted_B: Int[ArrayLike, "B"],
    labels_B: Int[ArrayLike, "B"],
    *,
    n_classes: int,
    ignore: Sequence[int] = (),
) -> Float[Array, ""]:
    """Compute the F1 score of the summed counts of all classes that matter.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1.
      ignore: classes that are no finding, such as the outside tag of a tagging task.
        They still count as errors of the others. If empty, this is the accuracy.

    Returns:
      In [0, 1], float32; NaN if no other class occurs or is predicted.

    Raises:
      ValueError: as `confusion_matrix`, or a class in `ignore` outside its range.
    """
    for one in ignore:
        if not 0 <= one < n_classes:
            raise ValueError(f"ignore: holds {one}, must lie in [0, {n_classes})")
    counts_VV = confusion_matrix(predicted_B, labels_B, n_classes=n_classes)
    matters_V = jnp.array([one not in ignore for one in range(n_classes)])
    either_V = jnp.sum(counts_VV, axis=0) + jnp.sum(counts_VV, axis=1)
    right = jnp.sum(jnp.diagonal(counts_VV), where=matters_V)
    return 2 * right / jnp.sum(either_V, where=matters_V)


def matthews_correlation(
    predicted_B: Int[ArrayLike, "B"], labels_B: Int[ArrayLike, "B"], *, n_classes: int
) -> Float[Array, ""]:
    """Compute the correlation of predicted and true classes.

    Args:
      predicted_B: predicted classes (B,), in [0, n_classes); B >= 1.
      labels_B: true classes (B,), in [0, n_classes).
      n_classes: V, at least 1.

    Returns:
      In [-1, 1], float32: 1 if all are right, 0 for guesses, and 0 if labels or
      predictions are all of one class.

    Raises:
      ValueError: as `confusion_matrix`.
    """
    counts_VV = confusion_matrix(predicted_B, labels_B, n_classes=n_classes)
    # Shares, and differences of products of counts rather than of squares of sums:
    # with one rare class float32 would keep two digits of s^2 - n.n.
    total = jnp.sum(counts_VV)
    share_VV = counts_VV / total
    true_V, guess_V = jnp.sum(counts_VV, axis=1), jnp.sum(counts_VV, axis=0)
    hit_V = jnp.diagonal(counts_VV)
    neither_V = total - true_V - guess_V + hit_V
    both = jnp.diagonal(share_VV) * (neither_V / total)
    mixed = ((true_V - hit_V) / total) * ((guess_V - hit_V) / total)
    spread = _spread(true_V, total) * _spread(guess_V, total)
    root = jnp.sqrt(jnp.where(spread == 0, 1.0, spread))
    return nan_if(total == 0, jnp.where(spread == 0, 0.0, jnp.sum(both - mixed) / root))


def _spread(counts_V: jax.Array, total: jax.Array) -> jax.Array:
    """Compute 1 - sum_k share_k^2, without a difference of near numbers."""
    return jnp.sum((counts_V / total) * ((total - counts_V) / total))
