"""The methods of attribution, each as a function of a passage, and their cost.

Occlusion and LIME replace a token by the end-of-text token: these vocabularies have no
token for a gap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from lostjax.analysis import (
    attention_rollout,
    attention_scores,
    gradient_norm,
    gradient_times_input,
    integrated_gradients,
    lime_scores,
    normalised_comprehensiveness,
    normalised_sufficiency,
    occlusion_scores,
    rank_scores,
    reagent,
)
from lostjax.analysis.attribution.samplers import Sampler
from lostjax.attribute.passage import (
    Passage,
    attention_of_prompt,
    logits_of_prompt,
    probs_of_prompts,
)
from lostjax.nn import Transformer
from lostjax.typing import Array, Key

LEAST_STEPS = 10
"""Steps of ReAGent before a probe may stop. A token that the continuation's own tokens
predict stops at the first one, with scores that are still the random start."""

POINTS, MASKS = 32, 8
"""Points of integrated gradients, and masks of each measure of faithfulness."""


class Settings(NamedTuple):
    """What the methods need beside the passage."""

    sampler: Sampler
    n_probes: int
    max_steps: int
    replacement: int


class Method(NamedTuple):
    """A method and its cost."""

    title: str
    score: Callable[[Transformer, Settings, Passage, Key], tuple[Array, Array | int]]
    """Returns scores (T,) and the number of forward passes."""
    most_passes: Callable[[Settings, int], int]
    """Forward passes for a token, at most, of a prompt of T tokens; a backward pass
    counts as two."""


def _reagent(
    model: Transformer, settings: Settings, passage: Passage, key: Key
) -> tuple[Array, Array]:
    found = reagent(
        probs_of_prompts(model, passage),
        passage.prompt_T,
        target=passage.target,
        sampler=settings.sampler,
        key=key,
        n_probes=settings.n_probes,
        min_steps=min(LEAST_STEPS, settings.max_steps),
        max_steps=settings.max_steps,
    )
    return found.scores_T, found.forward_passes


def _occlusion(
    model: Transformer, settings: Settings, passage: Passage, key: Key
) -> tuple[Array, int]:
    scores_T = occlusion_scores(
        probs_of_prompts(model, passage),
        passage.prompt_T,
        target=passage.target,
        replacement=settings.replacement,
    )
    return scores_T, passage.n_prompt + 1


def _lime(
    model: Transformer, settings: Settings, passage: Passage, key: Key
) -> tuple[Array, int]:
    scores_T = lime_scores(
        probs_of_prompts(model, passage),
        passage.prompt_T,
        target=passage.target,
        replacement=settings.replacement,
        key=key,
        n_samples=_count_samples(passage.n_prompt),
    )
    return scores_T, _count_samples(passage.n_prompt) + 1


def _count_samples(n_prompt: int) -> int:
    """Return LIME's rows: a regression needs several for each coefficient."""
    return max(128, 4 * n_prompt)


def _by_gradient(
    measure: Callable[..., Array],
    model: Transformer,
    settings: Settings,
    passage: Passage,
    key: Key,
) -> tuple[Array, int]:
    logits = logits_of_prompt(model, passage)
    return measure(logits, passage.prompt_TD, target=passage.target), 3


def _integrated(
    model: Transformer, settings: Settings, passage: Passage, key: Key
) -> tuple[Array, int]:
    found = integrated_gradients(
        logits_of_prompt(model, passage),
        passage.prompt_TD,
        target=passage.target,
        n_points=POINTS,
    )
    return found.scores_T, 3 * POINTS + 2


def _by_attention(
    measure: Callable[..., Array],
    model: Transformer,
    settings: Settings,
    passage: Passage,
    key: Key,
) -> tuple[Array, int]:
    scores_N = measure(attention_of_prompt(model, passage), query=passage.at)
    return scores_N[1 : 1 + passage.n_prompt], 1


METHODS = {
    "reagent": Method(
        "ReAGent", _reagent, lambda s, T: 1 + 2 * s.n_probes * s.max_steps
    ),
    "occlusion": Method("occlusion", _occlusion, lambda s, T: T + 1),
    "lime": Method("LIME", _lime, lambda s, T: _count_samples(T) + 1),
    "gradient_norm": Method(
        "gradient norm", partial(_by_gradient, gradient_norm), lambda s, T: 3
    ),
    "gradient_times_input": Method(
        "gradient x input", partial(_by_gradient, gradient_times_input), lambda s, T: 3
    ),
    "integrated_gradients": Method(
        "integrated gradients", _integrated, lambda s, T: 3 * POINTS + 2
    ),
    "attention": Method(
        "attention", partial(_by_attention, attention_scores), lambda s, T: 1
    ),
    "rollout": Method(
        "attention rollout", partial(_by_attention, attention_rollout), lambda s, T: 1
    ),
}
"""Methods by the name that the command line and the JSON have."""


def measure_faithfulness(
    model: Transformer, passage: Passage, scores_T: Array, key: Key
) -> tuple[Array, Array]:
    """Return normalised sufficiency and comprehensiveness of the scores' ranks."""
    options: dict[str, Any] = {
        "importance_T": rank_scores(scores_T),
        "key": key,
        "n_samples": MASKS,
    }
    logits, x_TD = logits_of_prompt(model, passage), passage.prompt_TD
    sufficiency = normalised_sufficiency(logits, x_TD, **options)
    return sufficiency, normalised_comprehensiveness(logits, x_TD, **options)


FAITHFULNESS_PASSES = 2 * (MASKS + 3)
"""Forward passes of `measure_faithfulness`."""


def random_scores(passage: Passage, key: Key) -> Array:
    """Return scores that know nothing, the control of faithfulness."""
    return jax.random.uniform(key, (passage.n_prompt,))
