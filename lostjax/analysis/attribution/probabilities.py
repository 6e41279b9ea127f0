"""The model as attribution sees it: rows of tokens in, probabilities out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.typing import Array, Float, Int

TokenProbs = Callable[[Array], Array]
"""`token_probs_fn(tokens_BT)` returns the probabilities of the token after each row,
(B, V)."""


def host_probs(
    probs_fn: Callable[[np.ndarray], Any], *, vocab_size: int
) -> Callable[[Array], Array]:
    """Wrap a function of another framework, such as PyTorch, as `token_probs_fn`.

    Args:
      probs_fn: maps token ids, a NumPy array (B, T), to what `np.asarray` accepts: the
        probabilities of the token after each row, (B, V).
      vocab_size: V.

    Returns:
      A function that JAX can trace; each call runs `probs_fn` on the host.
    """

    def call(tokens_BT: Array) -> np.ndarray:
        return np.asarray(probs_fn(np.asarray(tokens_BT)), np.float32)

    def token_probs_fn(tokens_BT: Array) -> Array:
        shape = jax.ShapeDtypeStruct((len(tokens_BT), vocab_size), jnp.float32)
        probs_BV: Array = jax.pure_callback(call, shape, tokens_BT)
        return probs_BV

    return token_probs_fn


def read_prompt(
    token_probs_fn: TokenProbs, tokens_T: Int[Array, "T"], *, target: Any
) -> Float[Array, "V"]:
    """Compute the probabilities after a prompt, and refuse what has no attribution.

    Returns:
      Probabilities (V,).

    Raises:
      ValueError: if there are fewer than two tokens, the probabilities are known and
        are not finite or do not sum to 1, or the target is known and not one of them.
    """
    if tokens_T.shape[0] < 2:
        raise ValueError(f"tokens_T: shape {tokens_T.shape}, needs 2 tokens or more")
    probs_V = token_probs_fn(tokens_T[None])[0]
    if probs_V.ndim != 1:
        raise ValueError(
            f"token_probs_fn: returned shape {(1, *probs_V.shape)} for one row, must "
            "be (1, V)"
        )
    check_target(target, vocab_size=probs_V.shape[0])
    if isinstance(probs_V, jax.core.Tracer):
        return probs_V
    total = float(jnp.sum(probs_V))
    if not (abs(total - 1) < 1e-2 and float(jnp.min(probs_V)) > -1e-6):
        raise ValueError(
            f"token_probs_fn: its probabilities sum to {total:g}, must be 0 or more "
            "and sum to 1; pass logits through a softmax"
        )
    return probs_V


def check_target(target: Any, *, vocab_size: int) -> None:
    """Refuse a known target that is no token id."""
    if isinstance(target, jax.core.Tracer):
        return
    if not 0 <= int(target) < vocab_size:
        raise ValueError(f"target={target}: must lie in [0, {vocab_size})")


def target_probs(
    token_probs_fn: TokenProbs,
    tokens_BT: Int[Array, "B T"],
    *,
    target: Any,
    batch_size: int,
) -> Float[Array, "B"]:
    """Compute the probability of a token after each row, some rows at a time.

    Args:
      token_probs_fn: the model.
      tokens_BT: token ids (B, T).
      target: the token id.
      batch_size: rows per call, which bounds the memory.

    Returns:
      Probabilities (B,).
    """
    B, T = tokens_BT.shape
    size = min(batch_size, B)
    # Rows of the last call that are missing repeat row 0 and are dropped again.
    filled = jnp.concatenate([tokens_BT, jnp.tile(tokens_BT[:1], (-B % size, 1))])
    probs = jax.lax.map(
        lambda part_BT: token_probs_fn(part_BT)[:, target], filled.reshape(-1, size, T)
    )
    probs_B: Array = probs.reshape(-1)[:B]
    return probs_B
