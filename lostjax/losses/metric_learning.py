"""Losses of few-shot learning: prototypes, proto-triplets and neighbourhoods.

    prototype of class n  c_n = mean of the class's support examples
    logits                - |q - c_n|^2 / t
    proto-triplet         max(0, d(q, c_own) - min_{n != own} d(q, c_n) + margin)
    ICNN score            (l_same + l_diff) / 4 + gamma / 2,      loss = - log score

with d(x, y) = sqrt(|x - y|^2 + 1e-6). The ICNN score (inter and intra class nearest
neighbours) of a set reads the k nearest neighbours of each example, without itself:

    gamma   mean share of neighbours of the example's own class
    l_same  1 - mean over examples of the mean ratio r of neighbours of its own class;
            r = d / D0, D0 the distance to the nearest candidate of another class, r
            divided by the largest of the row if that is above 1
    l_diff  mean over examples of the mean d / d_max of neighbours of other classes

Examples without such a neighbour are left out of l_same and l_diff; if no example has
one, l_same = 1 or l_diff = 1. Snell et al., "Prototypical Networks for Few-shot
Learning", 2017, arXiv:1703.05175. Mendez-Ruiz et al., "SuSana Distancia is all you
need: Enforcing class separability in metric learning via two novel distance-based loss
functions for few-shot image classification", 2023, arXiv:2305.09062; the formulas above
are those of the authors' code (github.com/maumruiz/FSL-Loss). Ours differs: it leaves
out each example itself by its number, not the nearest of its neighbours, which drops
another example if two coincide; it refuses a k that the set cannot fill instead of
lowering it and setting gamma to 1; and it divides without adding an epsilon.

The score cannot reach 1 if a class has k or fewer examples. It has kinks, since
neighbours change abruptly.

Cost: B N D at once for distances to N prototypes, and B^2 D for the ICNN score.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.checks import (
    nan_if,
    require_classes,
    require_examples,
    require_not_negative,
    require_positive,
    require_shape,
)
from lostjax.typing import Array, Float, Int, Scalar

ROOT_OFFSET = 1e-6
"""Is added to squared distances: the square root's gradient at 0 is infinite."""


def prototypes(
    support_BD: Float[Array, "B D"], labels_B: Int[Array, "B"], *, n_classes: int
) -> Float[Array, "N D"]:
    """Compute the mean representation of each class.

    Args:
      support_BD: representations of the support examples (B, D); averaged in float32.
      labels_B: classes in [0, n_classes), shape (B,).
      n_classes: N >= 1.

    Returns:
      Prototypes (N, D), float32; NaN for a class that traced labels do not hold.

    Raises:
      ValueError: no example, shapes that do not match, a label outside its range, or a
        class without an example.
    """
    require_examples("support_BD", support_BD)
    require_shape("labels_B", labels_B, support_BD.shape[:1])
    require_classes("labels_B", labels_B, n_classes)
    if not isinstance(labels_B, jax.core.Tracer):
        absent = np.setdiff1d(np.arange(n_classes), np.asarray(labels_B))
        if absent.size:
            raise ValueError(f"labels_B: class {absent[0]} has no example")
    member_NB = jnp.arange(n_classes)[:, None] == labels_B
    count_N = jnp.sum(member_NB, axis=-1, keepdims=True)
    # Sums of classes instead of a product with one-hot labels, which a TPU would round
    # to bfloat16.
    total_ND = jax.ops.segment_sum(
        support_BD.astype(jnp.float32), labels_B, num_segments=n_classes
    )
    return total_ND / count_N  # 0 / 0 is NaN


def prototypical_logits(
    query: Float[Array, "*batch D"],
    prototypes_ND: Float[Array, "N D"],
    *,
    temperature: Scalar = 1.0,
) -> Float[Array, "*batch N"]:
    """Compute the negative squared distances of queries to prototypes, as logits.

    Args:
      query: representations (..., D); computed in float32.
      prototypes_ND: a prototype for each class (N, D).
      temperature: t > 0, divides the squared distances.

    Returns:
      Logits (..., N), float32, at most 0, for `next_token_loss` or `jnp.argmax`.

    Raises:
      ValueError: shapes that do not match, or a temperature that is not positive.
    """
    require_positive("temperature", temperature)
    return -_squared_distances(query, prototypes_ND) / temperature


def proto_triplet_loss(
    query: Float[Array, "*batch D"],
    labels: Int[Array, "*batch"],
    *,
    prototypes_ND: Float[Array, "N D"],
    margin: Scalar = 0.5,
) -> Float[Array, "*batch"]:
    """Compute by how much a query's prototype fails to be nearer than all others.

    Args:
      query: representations (..., D); computed in float32.
      labels: classes in [0, N), shape (...); a traced label outside returns NaN.
      prototypes_ND: a prototype for each class (N, D), N >= 2.
      margin: m >= 0, in units of distance.

    Returns:
      Losses (...), float32, at least 0.

    Raises:
      ValueError: shapes that do not match, fewer than two classes, a label outside its
        range, or a negative margin.
    """
    require_not_negative("margin", margin)
    n_classes = len(prototypes_ND)
    if n_classes < 2:
        raise ValueError(f"prototypes_ND: {n_classes} class(es), needs 2 or more")
    require_shape("labels", labels, query.shape[:-1])
    require_classes("labels", labels, n_classes)
    distance = jnp.sqrt(_squared_distances(query, prototypes_ND) + ROOT_OFFSET)
    hot = jnp.arange(n_classes) == labels[..., None]
    own = jnp.sum(jnp.where(hot, distance, 0.0), axis=-1)
    nearest = jnp.min(jnp.where(hot, jnp.inf, distance), axis=-1)
    known = jnp.any(hot, axis=-1)
    return nan_if(~known, jnp.maximum(own - nearest + margin, 0.0))


def set_icnn_score(
    x_BD: Float[Array, "B D"],
    labels_B: Int[Array, "B"],
    *,
    k: int = 4,
    n_candidates: int | None = None,
) -> Float[Array, ""]:
    """Compute how well the neighbourhoods of a set separate its classes.

    Args:
      x_BD: representations (B, D); computed in float32.
      labels_B: any integers (B,); equal ones are one class.
      k: neighbours of each example that are scored, in [1, B - 1]. Choose it below the
        number of examples of each class.
      n_candidates: nearest neighbours among which one of another class is sought, in
        [k, B - 1]; None for k + 1 (at most B - 1). If there is none among them, the
        example's neighbours have ratio 0.

    Returns:
      A float32 scalar in (0, 1], higher for better separation; NaN if a number is NaN.

    Raises:
      ValueError: fewer than two examples, shapes that do not match, or a number outside
        its range.
    """
    require_examples("x_BD", x_BD, at_least=2)
    require_shape("labels_B", labels_B, x_BD.shape[:1])
    n_others = len(x_BD) - 1
    if not 1 <= k <= n_others:
        raise ValueError(f"k={k}: must lie in [1, {n_others}], the other examples")
    n_near = min(k + 1, n_others) if n_candidates is None else n_candidates
    if not k <= n_near <= n_others:
        raise ValueError(f"n_candidates={n_near}: must lie in [{k}, {n_others}]")
    distance_BN, same_BN = _neighbours(x_BD, labels_B, n_near)
    other_BN = jnp.where(same_BN, jnp.inf, distance_BN)
    nearest_B = jnp.min(other_BN, axis=-1, keepdims=True)
    found_B = jnp.isfinite(nearest_B) | jnp.isnan(nearest_B)
    distance_Bk, same_Bk = distance_BN[:, :k], same_BN[:, :k]
    # Divide by 1 if there is none: the gradient of a division by infinity is NaN.
    ratio_Bk = jnp.where(found_B, distance_Bk / jnp.where(found_B, nearest_B, 1.0), 0.0)
    ratio_Bk = ratio_Bk / jnp.maximum(jnp.max(ratio_Bk, axis=-1, keepdims=True), 1.0)
    same, any_same = _mean_of_means(ratio_Bk, same_Bk)
    # A distance is at least the root of ROOT_OFFSET, so that this never divides by 0.
    largest = jnp.max(distance_Bk, where=~same_Bk, initial=ROOT_OFFSET)
    diff, any_diff = _mean_of_means(distance_Bk / largest, ~same_Bk)
    apart = jnp.where(any_same, 1 - same, 1.0) + jnp.where(any_diff, diff, 1.0)
    score = apart / 4 + jnp.mean(same_Bk) / 2
    return nan_if(jnp.any(jnp.isnan(x_BD)), score)


def set_icnn_loss(
    x_BD: Float[Array, "B D"],
    labels_B: Int[Array, "B"],
    *,
    k: int = 4,
    n_candidates: int | None = None,
) -> Float[Array, ""]:
    """Compute minus the log of `set_icnn_score`.

    Args:
      x_BD: representations (B, D); computed in float32.
      labels_B: any integers (B,); equal ones are one class.
      k: neighbours of each example that are scored, in [1, B - 1].
      n_candidates: see `set_icnn_score`.

    Returns:
      A float32 scalar, at least 0. It is finite: a score of 0 would need neighbours of
      the example's own class for l_same = 0, and none for gamma = 0.

    Raises:
      ValueError: as `set_icnn_score`.
    """
    return -jnp.log(set_icnn_score(x_BD, labels_B, k=k, n_candidates=n_candidates))


def _squared_distances(x: jax.Array, y_ND: jax.Array) -> jax.Array:
    require_shape("prototypes_ND", y_ND, (len(y_ND), x.shape[-1]))
    # Differences, and no product of all pairs, which loses small distances.
    difference = x.astype(jnp.float32)[..., None, :] - y_ND.astype(jnp.float32)
    return jnp.sum(jnp.square(difference), axis=-1)


def _neighbours(
    x_BD: jax.Array, labels_B: jax.Array, n_near: int
) -> tuple[jax.Array, jax.Array]:
    """Return distances of the nearest others, and whether they share the class."""
    x_BD = x_BD.astype(jnp.float32)
    square_BB = jnp.sum(jnp.square(x_BD[:, None] - x_BD), axis=-1)
    itself_BB = jnp.eye(len(x_BD), dtype=bool)
    _, at_BN = jax.lax.top_k(-jnp.where(itself_BB, jnp.inf, square_BB), n_near)
    distance_BB = jnp.sqrt(square_BB + ROOT_OFFSET)
    distance_BN = jnp.take_along_axis(distance_BB, at_BN, axis=-1)
    return distance_BN, labels_B[at_BN] == labels_B[:, None]


def _mean_of_means(
    values_Bk: jax.Array, where_Bk: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Average each row where it counts, then the rows that have any; (mean, any)."""
    count_B = jnp.sum(where_Bk, axis=-1)
    sum_B = jnp.sum(values_Bk, axis=-1, where=where_Bk)
    n_rows = jnp.sum(count_B > 0)
    mean = jnp.sum(sum_B / jnp.maximum(count_B, 1)) / jnp.maximum(n_rows, 1)
    return mean, n_rows > 0
