"""ReAGent: the importance of tokens by recursive replacement, without gradients.

    R ~ Bernoulli(r) of each position;  x' = x with replacements in R
    d = p(y | x) - p(y | x')
    s_j += logit((1 + d) / 2) if j in R, else logit((1 - d) / 2)

until y is among the k likeliest tokens if only the n highest of s are kept and the
others are replaced. Several probes run side by side; the result is the mean of their
softmax(s).

Zhao and Shan, "ReAGent: A Model-agnostic Feature Attribution Method for Generative
Language Models", 2024, arXiv:2402.00794. The recipe is that of the authors' code.
Differences:

- If no probe stops, the result is the mean over all of them; theirs is 0 / 0.
- Probabilities of 0 and 1 are clipped before the logit; theirs is infinite.
- A replacement is never the token itself, if the samplers here draw it.
- `min_steps` keeps a lucky probe from stopping at once, before it has learnt anything.

Cost: two forward passes a step and probe, 2 P steps + 1 in all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logit

from lostjax.analysis.attribution.probabilities import TokenProbs, read_prompt
from lostjax.analysis.attribution.samplers import Sampler
from lostjax.typing import Array, Int, Key


class ReagentResult(NamedTuple):
    """Scores of a prompt's tokens, and how they came about."""

    scores_T: Array
    """Importance (T,), 0 or more, with sum 1."""
    steps_P: Array
    """Steps of each probe (P,), int32."""
    stopped_P: Array
    """Whether the probe stopped (P,); the scores are the mean over those that did, or
    over all if none did."""
    forward_passes: Array
    """Rows that the model read, int32."""


class _Probes(NamedTuple):
    scores_PT: Array
    steps_P: Array
    stopped_P: Array


def reagent(
    token_probs_fn: TokenProbs,
    tokens_T: Int[Array, "T"],
    *,
    target: Int[Array, ""] | int,
    sampler: Sampler,
    key: Key,
    replace_ratio: float = 0.3,
    keep_ratio: float = 0.3,
    top_k: int = 3,
    n_probes: int = 16,
    min_steps: int = 1,
    max_steps: int = 3000,
    clip: float = 1e-6,
) -> ReagentResult:
    """Compute how much each token counts for the next one, by replacing tokens.

    Args:
      token_probs_fn: maps token ids (B, T) to the probabilities (B, V) of the token
        after each row.
      tokens_T: the prompt (T,), T >= 2.
      target: y, the token id whose prediction is explained, in [0, V).
      sampler: draws replacements, `sampler(key, tokens_T) -> tokens_T`.
      key: random key.
      replace_ratio: r, the probability that a step replaces a token, in (0, 1).
      keep_ratio: share of tokens that the test keeps, in (0, 1); at least one is kept
        and at least one replaced.
      top_k: k, 1 or more.
      n_probes: P, the number of independent probes, 1 or more. Few steps make scores
        that vary; their mean does not.
      min_steps: steps before a probe may stop, 1 or more.
      max_steps: steps after which the rest stop, at least `min_steps`.
      clip: distance that is kept from 0 and 1 before the logit, in (0, 0.5).

    Returns:
      Scores (T,), with sum 1, and the probes' steps; NaN if a probability is NaN.

    Raises:
      ValueError: if an argument is out of its range, or the probabilities of the prompt
        are known and do not sum to 1.

    Example:
      found = reagent(probs, tokens_T, target=17, sampler=uniform_sampler(V), key=key)
      found.scores_T.argmax()
    """
    _check(replace_ratio, keep_ratio, top_k, n_probes, min_steps, max_steps, clip)
    T = tokens_T.shape[0]
    whole_V = read_prompt(token_probs_fn, tokens_T, target=target)
    n_kept = min(max(1, round(keep_ratio * T)), T - 1)
    start_key, key = jax.random.split(key)
    start_PT = jax.random.uniform(start_key, (n_probes, T))

    def step(state: tuple[_Probes, Array]) -> tuple[_Probes, Array]:
        probes, number = state
        mask_key, *keys = jax.random.split(jax.random.fold_in(key, number), 3)
        replaced_PT = jax.random.bernoulli(mask_key, replace_ratio, (n_probes, T))
        tried_PT = _replace(keys[0], tokens_T, replaced_PT, sampler)
        fall_P1 = (whole_V[target] - token_probs_fn(tried_PT)[:, target])[:, None]
        share_PT = (1 + jnp.where(replaced_PT, fall_P1, -fall_P1)) / 2
        moved_PT = probes.scores_PT + logit(jnp.clip(share_PT, clip, 1 - clip))
        kept_PT = _highest(moved_PT, n_kept)
        test_PV = token_probs_fn(_replace(keys[1], tokens_T, ~kept_PT, sampler))
        n_above_P = jnp.sum(test_PV > test_PV[:, target, None], axis=1)
        stops_P = (n_above_P < top_k) & (number + 1 >= min_steps)
        return _advance(probes, moved_PT, stops_P), number + 1

    def runs_on(state: tuple[_Probes, Array]) -> Array:
        probes, number = state
        return ~probes.stopped_P.all() & (number < max_steps)

    start = _Probes(start_PT, jnp.zeros(n_probes, jnp.int32), jnp.zeros(n_probes, bool))
    probes, n_steps = jax.lax.while_loop(runs_on, step, (start, jnp.int32(0)))
    return ReagentResult(
        _mean_scores(probes),
        probes.steps_P,
        probes.stopped_P,
        1 + 2 * n_probes * n_steps,
    )


def _highest(scores_PT: Array, n: int) -> Array:
    """Mark the n highest scores of each row; of equal ones the first."""
    order_PT = jnp.argsort(-scores_PT, axis=1)
    return jnp.argsort(order_PT, axis=1) < n


def _advance(probes: _Probes, moved_PT: Array, stops_P: Array) -> _Probes:
    """Move the probes that have not stopped."""
    running_P = ~probes.stopped_P
    return _Probes(
        jnp.where(running_P[:, None], moved_PT, probes.scores_PT),
        probes.steps_P + running_P,
        probes.stopped_P | stops_P,
    )


def _mean_scores(probes: _Probes) -> Array:
    # Without a probe that stopped, the mean over them would be 0 / 0.
    counted_P1 = (probes.stopped_P | ~probes.stopped_P.any())[:, None]
    shares_PT = jax.nn.softmax(probes.scores_PT, axis=1)
    return jnp.where(counted_P1, shares_PT, 0).sum(axis=0) / counted_P1.sum()


def _replace(
    key: Key, tokens_T: Array, replaced_PT: Array, sampler: Sampler
) -> Int[Array, "P T"]:
    """Replace some tokens, others in every probe."""
    keys_P = jax.random.split(key, len(replaced_PT))
    drawn_PT = jax.vmap(sampler, in_axes=(0, None))(keys_P, tokens_T)
    return jnp.where(replaced_PT, drawn_PT, tokens_T)


def _check(
    replace_ratio: float,
    keep_ratio: float,
    top_k: int,
    n_probes: int,
    min_steps: int,
    max_steps: int,
    clip: float,
) -> None:
    shares: dict[str, Any] = {"replace_ratio": replace_ratio, "keep_ratio": keep_ratio}
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name}={share}: must lie in (0, 1)")
    counts = {"top_k": top_k, "n_probes": n_probes, "min_steps": min_steps}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: must be 1 or more")
    if max_steps < min_steps:
        raise ValueError(
            f"max_steps={max_steps}: must be min_steps={min_steps} or more"
        )
    if not 0 < clip < 0.5:
        raise ValueError(f"clip={clip}: must lie in (0, 0.5)")
