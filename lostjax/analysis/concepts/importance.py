"""How much concepts count for an output, and where in an input they are.

    importance     S_i = mean over rows of the total Sobol index of m_i in
                   h((u * m) W), m uniform on [0, 1]^R
    location       map = sum over channels of x * du_i(g(x)) / dx

of a model f = h o g with activations g(x) ~ u W. CRAFT: Fel et al., 2022,
arXiv:2211.10154. The gradient goes through non-negative least squares in closed form
(`nnls`). Theirs feeds it to Grad-CAM, which needs a convolution; ours multiplies it by
the input, which fits images and embedded tokens alike. At a layer with positions,
`nnls` of the activations of each position is a map of its own, without a gradient.

An importance has no sign: a concept that speaks against a class counts as one that
speaks for it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from scipy.stats import qmc

from lostjax.analysis.concepts.least_squares import nnls
from lostjax.analysis.concepts.sobol import Engine, total_sobol
from lostjax.checks import require_examples, require_weights
from lostjax.typing import Array, Float


class ConceptImportance(NamedTuple):
    """Total Sobol indices of R concepts."""

    importance_R: Array
    """Mean over the rows, (R,), 0 or more."""
    indices_BR: Array
    """Of each row, (B, R); 0 if its output does not vary."""
    variance_B: Array
    """Variance of each row's output, (B,)."""


def concept_importance(
    head: Callable[[Array], Array],
    u_BR: Float[Array, "B R"],
    w_RM: Float[Array, "R M"],
    *,
    n_designs: int = 256,
    engine: Engine = qmc.Sobol,
    seed: int = 0,
) -> ConceptImportance:
    """Measure how much each concept counts for an output.

    Costs B N (R + 2) evaluations of the head, B N at a time.

    Args:
      head: h, maps activations (B N, M) to an output each (B N,), such as a class's
        logit; the rows of a design point are consecutive. Called on the host.
      u_BR: how much of each concept each row has, (B, R), not negative.
      w_RM: concepts (R, M), as of `nmf`.
      n_designs: N, see `total_sobol`.
      engine: see `total_sobol`.
      seed: of the scrambling.

    Returns:
      The importances.

    Raises:
      ValueError: if an argument is out of its range.
    """
    require_examples("u_BR", u_BR)
    require_weights("u_BR", u_BR)
    R, M = w_RM.shape

    def masked(m_NR: Array) -> Array:
        rows_XM = (u_BR * m_NR[:, None]).reshape(-1, R) @ w_RM
        y_X = head(rows_XM)
        if y_X.shape != rows_XM.shape[:1]:
            raise ValueError(
                f"head: returned shape {y_X.shape} for {rows_XM.shape}, must be "
                f"({len(rows_XM)},)"
            )
        return y_X.reshape(len(m_NR), len(u_BR))

    found = total_sobol(masked, R, n_designs=n_designs, engine=engine, seed=seed)
    indices_BR = found.indices.T
    return ConceptImportance(indices_BR.mean(axis=0), indices_BR, found.variance)


def concept_attribution_map(
    encode: Callable[[Array], Array],
    x: Float[Array, "... C"],
    w_RM: Float[Array, "R M"],
    *,
    concept: int,
) -> Float[Array, "..."]:
    """Locate a concept in an input, by gradient times input.

    Args:
      encode: g, maps one input to its activations (M,); differentiable by JAX.
      x: an image (H, W, C), or the embeddings (T, D) of tokens.
      w_RM: concepts (R, M).
      concept: which, in [0, R).

    Returns:
      The input's shape without its last axis; zeros if the input has nothing of the
      concept.

    Raises:
      ValueError: if there is no such concept.
    """
    if not 0 <= concept < len(w_RM):
        raise ValueError(f"concept={concept}: must lie in [0, {len(w_RM)})")
    slope = jax.grad(lambda x: nnls(encode(x), w_RM)[concept])(x)
    return jnp.sum(x * slope, axis=-1)
