"""Attribution by attention weights, without a pass through the rest of the model.

    attention    s = mean over layers and heads of the last query's weights
    rollout      s = last row of A_L ... A_1,  A_l = r I + (1 - r) mean_h W_lh

Rollout follows the weights back through the layers; the residual connection has the
share r of its own. Abnar and Zuidema, "Quantifying Attention Flow in Transformers",
2020, arXiv:2005.00928. `lostjax.nn.attention_maps` returns the weights.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, Int


def attention_scores(
    weights_LHTS: Float[Array, "L H T S"], *, query: Int[Array, ""] | int = -1
) -> Float[Array, "S"]:
    """Average what a position attends to over all layers and heads.

    Args:
      weights_LHTS: attention weights (L, H, T query, S key); each row has the sum 1.
      query: the position whose next token is explained; default the last.

    Returns:
      Scores (S,), 0 or more, with sum 1.

    Raises:
      ValueError: if there is no layer or head, or the query is no position.
    """
    _check(weights_LHTS, query)
    return weights_LHTS.astype(jnp.float32).mean(axis=(0, 1))[query]


def attention_rollout(
    weights_LHTS: Float[Array, "L H T S"],
    *,
    query: Int[Array, ""] | int = -1,
    residual: float = 0.5,
) -> Float[Array, "S"]:
    """Multiply the attention of all layers, from a position back to the tokens.

    Args:
      weights_LHTS: attention weights (L, H, T query, S key), T = S, the first layer
        first; each row has the sum 1.
      query: the position whose next token is explained; default the last.
      residual: share of a position's own state in the next layer, in [0, 1).

    Returns:
      Scores (S,), 0 or more, with sum 1.

    Raises:
      ValueError: if there is no layer or head, the maps are not square, the query is no
        position, or the share is out of its range.
    """
    _check(weights_LHTS, query)
    _, _, T, S = weights_LHTS.shape
    if T != S:
        raise ValueError(f"weights_LHTS: shape {weights_LHTS.shape}, needs T = S")
    if not 0 <= residual < 1:
        raise ValueError(f"residual={residual}: must lie in [0, 1)")
    mean_LTS = weights_LHTS.astype(jnp.float32).mean(axis=1)

    # One row from the last layer to the first: T^2 a layer, and not T^3.
    def back(row_T: Array, layer_TS: Array) -> tuple[Array, None]:
        return residual * row_T + (1 - residual) * row_T @ layer_TS, None

    start_T = jnp.zeros(T).at[query].set(1.0)
    scores_S: Array = jax.lax.scan(back, start_T, mean_LTS, reverse=True)[0]
    return scores_S


def _check(weights_LHTS: Array, query: Int[Array, ""] | int) -> None:
    if 0 in weights_LHTS.shape:
        raise ValueError(f"weights_LHTS: shape {weights_LHTS.shape} holds no weights")
    T = weights_LHTS.shape[2]
    if not isinstance(query, jax.core.Tracer) and not -T <= query < T:
        raise ValueError(f"query={query}: must lie in [-{T}, {T})")
