"""Contrastive losses of two views: by softmax with a temperature, and without one.

    info_nce  = - log (exp(s_ii / t) / (exp(s_ii / t) + sum_k exp(s_ik / t)))
    simple    = - s_ii + lambda sum_k s_ik

with s the cosine similarity of an anchor to its positive (s_ii) and to its negatives
(s_ik). The temperature sets how much the hardest negatives count: the share of negative
k in the gradient is softmax_k(s_ik / t) (`analysis.relative_penalty`). For t -> 0 the
loss times t becomes max(max_k s_ik - s_ii, 0), the hardest negative alone; for t -> inf
it becomes log N plus (1 / (N t)) sum_k (s_ik - s_ii) over all N candidates, all alike,
as does the simple loss. A hard share below 1 keeps only the most similar negatives, at
any temperature and in the simple loss. Wang & Liu, "Understanding the Behaviour of
Contrastive Loss", 2020, arXiv:2012.09740; van den Oord et al., "Representation Learning
with Contrastive Predictive Coding", 2018, arXiv:1807.03748 (the loss).

Two views of one batch: call it twice, with the arguments exchanged. A negative that is
an example of the same class, or a duplicate, is pushed away like any other.

Cost: B N D for similarities, B N at once; a hard share sorts each row partly.
"""

import math

import jax
import jax.numpy as jnp

from lostjax.checks import require_positive, require_shape
from lostjax.typing import Array, Float, Scalar

SMALLEST_NORM = 1e-12
"""A vector of a smaller norm counts as zero: its similarity to all others is 0."""


def info_nce_loss(
    anchors_BD: Float[Array, "B D"],
    positives_BD: Float[Array, "B D"],
    *,
    temperature: Scalar = 0.1,
    negatives_ND: Float[Array, "N D"] | None = None,
    hard_share: float | int = 1.0,
) -> Float[Array, "B"]:
    """Compute the cross entropy of finding each anchor's positive among its negatives.

    Args:
      anchors_BD: representations (B, D), normalised here; computed in float32.
      positives_BD: representations of the same examples' other view, (B, D).
      temperature: t > 0; may be traced, as for one that is learnt.
      negatives_ND: representations (N, D) that are negatives of every anchor, such as a
        queue; None for the positives of the other anchors.
      hard_share: share in (0, 1] of the negatives to keep, the most similar ones,
        rounded up to at least one.

    Returns:
      Losses (B,), float32, in nats, at least 0; 0 if there are no negatives.

    Raises:
      ValueError: shapes that do not match, or a number outside its range.
    """
    require_positive("temperature", temperature)
    own_B, others_BN = _similarities(anchors_BD, positives_BD, negatives_ND)
    others_BN = _keep_hard(others_BN, hard_share)
    if not others_BN.shape[-1]:
        return 0 * own_B  # without negatives; NaN stays visible
    # The softplus of differences keeps the digits of a small loss, and logsumexp
    # subtracts the maximum first: s / t overflows exp at t = 0.01.
    return jax.nn.softplus(
        jax.nn.logsumexp((others_BN - own_B[:, None]) / temperature, axis=-1)
    )


def simple_contrastive_loss(
    anchors_BD: Float[Array, "B D"],
    positives_BD: Float[Array, "B D"],
    *,
    weight: Scalar = 1.0,
    negatives_ND: Float[Array, "N D"] | None = None,
    hard_share: float | int = 1.0,
) -> Float[Array, "B"]:
    """Compute the weighted sum of similarities to negatives minus that to the positive.

    Args:
      anchors_BD: representations (B, D), normalised here; computed in float32.
      positives_BD: representations of the same examples' other view, (B, D).
      weight: lambda of each negative, of any sign.
      negatives_ND: see `info_nce_loss`.
      hard_share: see `info_nce_loss`.

    Returns:
      Losses (B,), float32, in [-1 - lambda N, 1 + lambda N] for N kept negatives.

    Raises:
      ValueError: shapes that do not match, or a share outside its range.
    """
    own_B, others_BN = _similarities(anchors_BD, positives_BD, negatives_ND)
    others_BN = _keep_hard(others_BN, hard_share)
    return weight * jnp.sum(others_BN, axis=-1) - own_B


def _keep_hard(others_BN: jax.Array, hard_share: float | int) -> jax.Array:
    """Keep a share of each row, the most similar negatives."""
    if not 0 < hard_share <= 1:
        raise ValueError(f"hard_share={hard_share}: must lie in (0, 1]")
    n_kept = math.ceil(hard_share * others_BN.shape[-1])
    if n_kept == others_BN.shape[-1]:
        return others_BN
    return jax.lax.top_k(others_BN, n_kept)[0]


def _similarities(
    anchors_BD: jax.Array, positives_BD: jax.Array, negatives_ND: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Compute the cosines of each anchor with its positive, and with its negatives."""
    require_shape("positives_BD", positives_BD, anchors_BD.shape)
    anchors_BD, positives_BD = _normalise(anchors_BD), _normalise(positives_BD)
    own_B = jnp.sum(anchors_BD * positives_BD, axis=-1)
    if negatives_ND is not None:
        width = anchors_BD.shape[-1]
        require_shape("negatives_ND", negatives_ND, (len(negatives_ND), width))
        return own_B, _multiply(anchors_BD, _normalise(negatives_ND).T)
    size = len(anchors_BD)
    similarity_BB = _multiply(anchors_BD, positives_BD.T)
    # Row i without column i, as a gather of fixed shape: masking with -inf would put
    # -inf among the hardest few of a small batch.
    column = jnp.arange(max(size - 1, 0))[None]
    others = column + (column >= jnp.arange(size)[:, None])
    return own_B, jnp.take_along_axis(similarity_BB, others, axis=-1)


def _multiply(x: jax.Array, y: jax.Array) -> jax.Array:
    # TPUs round float32 products to bfloat16 by default: an error of 1/256 in a
    # similarity is one of 8 % in exp(s / t) at t = 0.05.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _normalise(x_BD: jax.Array) -> jax.Array:
    """Divide rows by their norms; a zero row stays zero and gets no gradient."""
    x_BD = x_BD.astype(jnp.float32)
    square_B = jnp.sum(jnp.square(x_BD), axis=-1, keepdims=True)
    zero_B = square_B < SMALLEST_NORM**2
    # The inner `where` keeps the root's gradient finite; a bound alone would multiply
    # the gradient of a zero row by 1 / SMALLEST_NORM.
    unit_BD = x_BD * jax.lax.rsqrt(jnp.where(zero_B, 1.0, square_B))
    return jnp.where(zero_B, 0.0, unit_BD)
