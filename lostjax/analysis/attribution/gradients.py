"""Attribution by gradients of the log-probability F(x) = log p(y | x), x embeddings.

    gradient norm           s_j = |dF / dx_j|
    gradient x input        s_j = x_j . dF / dx_j
    integrated gradients    s_j = (x_j - x0_j) . mean over a in [0, 1] of dF / dx_j

dF is taken at x0 + a (x - x0). The scores sum to F(x) - F(x0), the completeness; the
difference is returned. The integral is taken by Gauss and Legendre's rule.

Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", 2013,
arXiv:1312.6034 (gradient); Denil, Demiraj and de Freitas, "Extraction of Salient
Sentences from Labelled Documents", 2014, arXiv:1412.6815 (gradient x input);
Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", 2017,
arXiv:1703.01365 (integrated gradients).

Cost: one forward and backward pass, or one for each point of the path.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis.attribution.probabilities import check_target
from lostjax.typing import Array, Float, Int

LogitsFn = Callable[[Array], Array]
"""`logits_from_embeddings(x_TD)` returns the logits (V,) of the token after the row."""

Target = Int[Array, ""] | int


class PathScores(NamedTuple):
    """Integrated gradients and their error."""

    scores_T: Array
    """Signed importance (T,), nats."""
    gap: Array
    """F(x) - F(x0) less the sum of the scores, nats: 0 if the integral is exact."""


def gradient_norm(
    logits_from_embeddings: LogitsFn, x_TD: Float[Array, "T D"], *, target: Target
) -> Float[Array, "T"]:
    """Compute the norm of the gradient at each token's embedding.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D), T >= 1.
      target: token id whose prediction is explained, in [0, V).

    Returns:
      Scores (T,), 0 or more.

    Raises:
      ValueError: if there is no token or the target is outside the vocabulary.
    """
    gradient_TD = _gradient(logits_from_embeddings, x_TD, target)
    norm_T: Array = jnp.linalg.norm(gradient_TD, axis=1)
    return norm_T


def gradient_times_input(
    logits_from_embeddings: LogitsFn, x_TD: Float[Array, "T D"], *, target: Target
) -> Float[Array, "T"]:
    """Compute the product of each token's embedding and its gradient.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D), T >= 1.
      target: token id whose prediction is explained, in [0, V).

    Returns:
      Signed scores (T,).

    Raises:
      ValueError: if there is no token or the target is outside the vocabulary.
    """
    return jnp.sum(x_TD * _gradient(logits_from_embeddings, x_TD, target), axis=1)


def integrated_gradients(
    logits_from_embeddings: LogitsFn,
    x_TD: Float[Array, "T D"],
    *,
    target: Target,
    baseline_TD: Float[Array, "T D"] | None = None,
    n_points: int = 32,
) -> PathScores:
    """Integrate the gradient on the straight path from a baseline to the prompt.

    Args:
      logits_from_embeddings: maps embeddings (T, D) to the logits (V,) of the token
        after them.
      x_TD: embeddings of the prompt (T, D), T >= 1.
      target: token id whose prediction is explained, in [0, V).
      baseline_TD: x0, the embeddings of nothing (T, D); None for zeros.
      n_points: points of the path, 1 or more.

    Returns:
      Scores (T,), and how far their sum is from the change of the log-probability. Take
      more points if the gap is large.

    Raises:
      ValueError: if there is no token, the target is outside the vocabulary, the
        baseline has another shape, or there is no point.
    """
    if n_points < 1:
        raise ValueError(f"n_points={n_points}: must be 1 or more")
    start_TD = jnp.zeros_like(x_TD) if baseline_TD is None else baseline_TD
    if start_TD.shape != x_TD.shape:
        raise ValueError(f"baseline_TD: shape {start_TD.shape}, must be {x_TD.shape}")
    log_prob = _log_prob(logits_from_embeddings, x_TD, target)
    # From [-1, 1] to [0, 1]; the weights then have the sum 1.
    nodes, weights = np.polynomial.legendre.leggauss(n_points)
    along = jnp.asarray((nodes + 1) / 2, x_TD.dtype)
    shares = jnp.asarray(weights / 2, x_TD.dtype)
    way_TD = x_TD - start_TD
    gradient = jax.grad(log_prob)
    # One point at a time: a long prompt's activations are kept once.
    slopes = jax.lax.map(lambda a: gradient(start_TD + a * way_TD), along)
    scores_T = jnp.sum(way_TD * jnp.einsum("n,ntd->td", shares, slopes), axis=1)
    gap = log_prob(x_TD) - log_prob(start_TD) - scores_T.sum()
    return PathScores(scores_T, gap)


def _gradient(logits_fn: LogitsFn, x_TD: Array, target: Target) -> Float[Array, "T D"]:
    gradient_TD: Array = jax.grad(_log_prob(logits_fn, x_TD, target))(x_TD)
    return gradient_TD


def _log_prob(
    logits_fn: LogitsFn, x_TD: Array, target: Target
) -> Callable[[Array], Array]:
    if not x_TD.shape[0]:
        raise ValueError(f"x_TD: shape {x_TD.shape}, needs 1 token or more")
    vocab_size = jax.eval_shape(logits_fn, x_TD).shape[-1]
    check_target(target, vocab_size=vocab_size)
    return lambda x: jax.nn.log_softmax(logits_fn(x).astype(jnp.float32))[target]
