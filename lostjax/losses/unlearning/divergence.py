"""Forget by an f-divergence between template answers and forgotten ones (FLAT).

    loss = -g(P(e)) + f*(g(P(f)))
    P(y) = mean over the answer's tokens of their probability      in [0, 1]

e is a template answer, such as a refusal, and f the answer to be forgotten. f* is the
convex conjugate of the divergence's f, and g a rising function into the domain of f*,
so that the loss falls as P(e) rises and as P(f) falls. Neither retained data nor a
reference model enters. Because P is bounded, the loss is too, and its gradient fades as
P(f) falls to 0, unlike that of gradient ascent.

    divergence        f(u)                          g(v)                    f*(g(v))
    total variation   |u - 1| / 2                   tanh(v) / 2             tanh(v) / 2
    KL                u log u                       v                       exp(v - 1)
    reverse KL        -log u                        -exp(-v)                v - 1
    Jensen-Shannon    u log u                       log(2 / (1 + exp(-v)))  v - g(v)
                      - (u + 1) log((u + 1) / 2)
    Pearson           (u - 1)^2                     v                       v + v^2 / 4
    Neyman            (u - 1)^2 / u                 1 - exp(-v)       2 - 2 exp(-v / 2)
    squared Hellinger (sqrt(u) - 1)^2               1 - exp(-v)             exp(v) - 1
    Jeffreys          (u - 1) log u                 v        v + v^2 / 4 + v^3 / 16 + ..

Wang et al., "LLM Unlearning via Loss Adjustment with Only Forget Data", 2024,
arXiv:2410.11143. The functions g are those of Nowozin, Cseke & Tomioka, "f-GAN:
Training Generative Neural Samplers using Variational Divergence Minimization", 2016,
arXiv:1606.00709, tables 2 and 6. Ours differs from the authors' code in three places:

- Their g of reverse KL, Neyman and squared Hellinger has exp(v) instead of exp(-v). It
  falls, so that descending the loss teaches the answer that should be forgotten.
- Their conjugate of Neyman is applied to v and not to g(v).
- They average probabilities over all positions, padding included, and over the batch
  before g. Here each example has a value of its own, over its answer alone.

The conjugate of Jeffreys has no elementary form; both use its series up to v^3, which
is at most .018 below it for v in [0, 1].

Cost: a few operations an example beside the softmax.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lostjax.checks import require_probabilities, require_shape
from lostjax.losses.language import next_token_loss
from lostjax.losses.reduce import weighted_mean
from lostjax.typing import Array, Float, Int


class DivergenceTerms(NamedTuple):
    """The two functions of a divergence that its variational form needs."""

    g: Array
    """g(v), which rises with v."""
    conjugate: Array
    """f*(g(v)), which rises too."""


Divergence = Callable[[Array], DivergenceTerms]
"""From v, any shape, to g(v) and f*(g(v)), elementwise."""


def total_variation(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of the total variation, the paper's default."""
    g = jnp.tanh(v) / 2
    return DivergenceTerms(g, g)


def kl_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of the Kullback-Leibler divergence."""
    return DivergenceTerms(v, jnp.exp(v - 1))


def reverse_kl_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of the Kullback-Leibler divergence with its sides exchanged."""
    return DivergenceTerms(-jnp.exp(-v), v - 1)


def jensen_shannon_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of twice the Jensen-Shannon divergence."""
    g = jnp.log(2.0) - jax.nn.softplus(-v)
    return DivergenceTerms(g, v - g)


def pearson_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of Pearson's chi-squared divergence."""
    return DivergenceTerms(v, v + v**2 / 4)


def neyman_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of Neyman's chi-squared divergence."""
    return DivergenceTerms(-jnp.expm1(-v), -2 * jnp.expm1(-v / 2))


def squared_hellinger(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of the squared Hellinger distance."""
    return DivergenceTerms(-jnp.expm1(-v), jnp.expm1(v))


def jeffreys_divergence(v: Float[Array, "..."]) -> DivergenceTerms:
    """Compute the terms of Jeffreys' divergence, its conjugate by a series."""
    return DivergenceTerms(v, v + v**2 / 4 + v**3 / 16)


def flat_loss(
    template_probability_B: Float[Array, "*batch"],
    forget_probability_B: Float[Array, "*batch"],
    *,
    divergence: Divergence = total_variation,
) -> Float[Array, "*batch"]:
    """Compute the loss of FLAT of each example.

    Args:
      template_probability_B: mean probability of the template answer's tokens, (...),
        in [0, 1], from `mean_token_probability`. A log-probability would be wrong: some
        divergences then change their direction.
      forget_probability_B: the same of the answer that is forgotten, (...).
      divergence: one of the eight functions of this module, or another.

    Returns:
      Losses (...), float32. A traced probability outside [0, 1] gives NaN.

    Raises:
      ValueError: shapes differ, or a known probability lies outside [0, 1].

    Example:
      loss = flat_loss(refusal_probability_B, answer_probability_B)
    """
    require_shape(
        "forget_probability_B", forget_probability_B, template_probability_B.shape
    )
    require_probabilities("template_probability_B", template_probability_B)
    require_probabilities("forget_probability_B", forget_probability_B)
    kept = divergence(_inside(template_probability_B)).g
    return divergence(_inside(forget_probability_B)).conjugate - kept


def mean_token_probability(
    logits_TV: Float[Array, "*batch T V"],
    targets_T: Int[Array, "*batch T"],
    *,
    weights_T: Float[Array, "*batch T"] | None = None,
) -> Float[Array, "*batch"]:
    """Average the probabilities of an answer's tokens.

    The mean is of probabilities, not of their logarithms: one improbable token does not
    make the whole answer improbable.

    Args:
      logits_TV: unnormalised log-probabilities (..., T, V); computed in float32.
      targets_T: the answer's tokens (..., T), in [0, V).
      weights_T: not negative, (..., T): 1 for the answer's tokens, and 0 for prompt and
        padding, whose values do not enter. None for 1 each.

    Returns:
      Probabilities (...), float32, in [0, 1]; 0 for an answer whose weights are all 0.

    Raises:
      ValueError: shapes differ.
    """
    require_shape("targets_T", targets_T, logits_TV.shape[:-1])
    weights_T = jnp.ones(targets_T.shape) if weights_T is None else weights_T
    require_shape("weights_T", weights_T, targets_T.shape)
    probabilities_T = jnp.exp(-next_token_loss(logits_TV, targets_T))
    # Rows of one axis, because the mean of the library is over all values.
    rows = [x.reshape(-1, x.shape[-1]) for x in (probabilities_T, weights_T)]
    return jax.vmap(weighted_mean)(*rows).reshape(targets_T.shape[:-1])


def _inside(probability: Array) -> Array:
    """Widen to float32; NaN if a value is no probability, as a log-probability is."""
    wide = probability.astype(jnp.float32)
    # A mean of softmax probabilities may exceed 1 by a rounding.
    return jnp.where((wide >= 0) & (wide <= 1 + 1e-5), wide, jnp.nan)
