"""Whether a model shows which texts it was trained on.

    score of a text = mean of the k % smallest log-probabilities of its tokens  (Min-K%)
    membership AUC  = P(score of a member > score of another), ties count half

.5 if members cannot be told from others, 1 if all can; below .5 members are less likely
than others, as after unlearning that went too far. With a share of 1 the score is the
mean log-probability, and the attack that of Yeom et al., "Privacy Risk in Machine
Learning: Analyzing the Connection to Overfitting", 2017, arXiv:1709.01604. Min-K%: Shi
et al., "Detecting Pretraining Data from Large Language Models", 2023, arXiv:2310.16789;
their share is .2.

The others should be like the members in all but their use: held-out text of another
kind is told from members by its kind alone. Cost: two sorts.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lostjax.checks import require_examples, require_positive, require_shape
from lostjax.metrics.ranking import roc_auc
from lostjax.typing import Array, Bool, Float, Int


def membership_auc(
    log_probabilities_BT: Float[ArrayLike, "B T"],
    members_B: Int[ArrayLike, "B"] | Bool[ArrayLike, "B"],
    *,
    weights_BT: Float[ArrayLike, "B T"] | None = None,
    share: float | int = 0.2,
) -> Float[Array, ""]:
    """Compute how well Min-K% tells texts that were trained on from others.

    Args:
      log_probabilities_BT: of each token given those before it, (B, T), at most 0.
      members_B: 1 for texts that were trained on, 0 for others, (B,).
      weights_BT: 0 for prompt and padding, whose values do not enter, and positive for
        tokens that count alike, (B, T); None for all. A text needs one that counts:
        without, its score is NaN.
      share: k / 100, in (0, 1]; of n tokens max(1, floor(share n)) enter.

    Returns:
      In [0, 1], float32; NaN if members or others are missing, or a text has no token.

    Raises:
      ValueError: no example, shapes that differ, a label that is neither 0 nor 1, or a
        share out of range.
    """
    values_BT = jnp.asarray(log_probabilities_BT, jnp.float32)
    require_examples("log_probabilities_BT", values_BT)
    counts_BT = jnp.ones(values_BT.shape) if weights_BT is None else weights_BT
    counts_BT = jnp.asarray(counts_BT) > 0
    require_shape("weights_BT", counts_BT, values_BT.shape)
    members_B = jnp.asarray(members_B)
    require_shape("members_B", members_B, values_BT.shape[:1])
    require_positive("share", share)
    if share > 1:
        raise ValueError(f"share={share}: must lie in (0, 1]")
    return roc_auc(_score(values_BT, counts_BT, share), members_B)


def _score(values_BT: Array, counts_BT: Array, share: float) -> Array:
    """Average the smallest values of each row."""
    lengths_B = jnp.sum(counts_BT, axis=1)
    # The product may be just below a whole number: .29 * 100 is 28.999999.
    enter_B = jnp.maximum(1, jnp.floor(share * lengths_B + 1e-4)).astype(int)
    hidden_BT = jnp.where(counts_BT, values_BT, jnp.inf)
    sorted_BT = jnp.sort(hidden_BT, axis=1)  # NaN last, as infinities are
    enters_BT = jnp.arange(values_BT.shape[1]) < enter_B[:, None]
    means_B = jnp.sum(jnp.where(enters_BT, sorted_BT, 0.0), axis=1) / enter_B
    is_bad_B = jnp.any(counts_BT & jnp.isnan(values_BT), axis=1) | (lengths_B == 0)
    return jnp.where(is_bad_B, jnp.nan, jax.lax.stop_gradient(means_B))
