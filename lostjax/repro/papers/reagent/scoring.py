"""Prompts of small models, and what a method of attribution makes of them.

A text's prompt is followed by the token that the model finds most likely, a planted one
by its query and the answer; only answers that the model has right are explained. The
methods are those of `lostjax.attribute`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import reagent, uniform_sampler
from lostjax.analysis.attribution.samplers import (
    Sampler,
    fit_neighbours,
    table_sampler,
)
from lostjax.attribute.methods import (
    METHODS,
    Settings,
    measure_faithfulness,
    random_scores,
)
from lostjax.attribute.passage import Passage, probs_of_prompts
from lostjax.nn import Transformer
from lostjax.repro.papers.reagent.models import (
    INPUTS,
    PROMPT,
    VOCAB,
    Size,
    draw_text,
    make_model,
    plant,
    read_text,
)
from lostjax.typing import Array, Key, Variables

RANDOM, PUBLISHED, UNIFORM = "random", "reagent, published stop", "reagent, uniform"
"""Methods beside those of the program: the control; ReAGent whose probes stop at the
first step that they may; ReAGent with replacements that fit nothing."""

PROBES, MOST_STEPS = 16, 50
"""Of ReAGent: the program's own."""

LEAST_RIGHT = 0.9
"""Share of answers that a model has to have right."""

Score = Callable[[Passage, Key], tuple[Array, Array | int]]


class Prompts(NamedTuple):
    """Prompts of one kind, P of them, that a model continues."""

    rows_PN: Array
    """Inputs and last target (P, N)."""
    at: int
    """Position whose next token is explained."""
    ends_PTV: Array
    """Tables of replacements that fit both neighbours."""
    places_P: Array
    """Place of the key in each prompt; 0 if nothing is planted."""


class Found(NamedTuple):
    """What a method made of P prompts."""

    scores_PT: Array
    sufficiency_P: Array
    comprehensiveness_P: Array
    passes_P: Array


def draw_prompts(
    size: Size, variables: Variables, *, count: int, seed: int, part: str, key: bool
) -> Prompts:
    """Draw prompts of held-out speeches.

    Args:
      size: of the model.
      variables: its variables.
      count: P.
      seed: of the drawing.
      part: of the text: `valid_M` or `test_L`.
      key: plant a key, and query and answer after the prompt.
    """
    text, model = read_text(), make_model(size)
    text_key, plant_key = jax.random.split(jax.random.key(1000 + seed))
    # Enough of them to find as many that are answered right.
    drawn = max(64, 2 * count) if key else count
    tokens_N = jnp.asarray(getattr(text, part))
    rows_BN = draw_text(text_key, tokens_N, count=drawn, eos=text.eos)
    places_B = jnp.zeros(drawn, jnp.int32)
    at = INPUTS - 1 if key else PROMPT
    if key:
        rows_BN, places_B = plant(plant_key, rows_BN, text)
    logits: Any = jax.jit(model.apply)(variables, rows_BN[:, :-1])
    likely_B = logits[:, at].argmax(axis=-1)
    if key:
        (right,) = np.nonzero(np.asarray(likely_B == rows_BN[:, at + 1]))
        # A model that answers by chance has nothing planted in it to find.
        if len(right) < LEAST_RIGHT * drawn:
            raise ValueError(
                f"width {size.width}, seed {seed}: {len(right)} of {drawn} answers are "
                "right: the model has not learnt the keys; train it for longer"
            )
        rows_BN, places_B = rows_BN[right[:count]], places_B[right[:count]]
    else:
        rows_BN = rows_BN.at[:, at + 1].set(likely_B)
    tables = [
        fit_neighbours(text.valid_M, row_N[1 : 1 + PROMPT], vocab_size=VOCAB)
        for row_N in np.asarray(rows_BN)
    ]
    return Prompts(rows_BN, at, jnp.asarray(np.stack(tables)), places_B)


def score_prompts(
    method: str, size: Size, variables: Variables, *, prompts: Prompts, seed: int
) -> Found:
    """Score prompts by a method, and measure how faithful the scores are."""
    keys = jax.random.split(jax.random.key(2000 + seed), len(prompts.rows_PN))
    run = _compile(method, size)
    return Found(
        *jax.device_get(
            run(variables, prompts.rows_PN, prompts.at, prompts.ends_PTV, keys)
        )
    )


@cache
def _compile(method: str, size: Size) -> Callable[..., Found]:
    model = make_model(size)

    def explain(
        variables: Variables, row_N: Array, at: Array, ends_TV: Array, key: Key
    ) -> Found:
        passage = Passage(variables, row_N[:-1], PROMPT, at, row_N[at + 1])
        draw_key, mask_key = jax.random.split(key)
        score = _find(method, model, table_sampler(ends_TV))
        scores_T, passes = score(passage, draw_key)
        kept, changed = measure_faithfulness(model, passage, scores_T, mask_key)
        return Found(scores_T, kept, changed, jnp.int32(passes))

    @jax.jit
    def run(
        variables: Variables, rows_PN: Array, at: Array, ends_PTV: Array, keys: Key
    ) -> Found:
        # One prompt after another: probes of a prompt that has stopped cost nothing.
        found: Found = jax.lax.map(
            lambda one: explain(variables, one[0], at, one[1], one[2]),
            (rows_PN, ends_PTV, keys),
        )
        return found

    return run


def _find(method: str, model: Transformer, sampler: Sampler) -> Score:
    """Find a method; the three that the program does not have are here."""
    if method == RANDOM:
        return lambda passage, key: (random_scores(passage, key), 0)
    if method == PUBLISHED:
        return partial(_stop_at_once, model, sampler)
    if method == UNIFORM:
        method, sampler = "reagent", uniform_sampler(VOCAB)
    settings = Settings(sampler, PROBES, MOST_STEPS, replacement=read_text().eos)
    return partial(METHODS[method].score, model, settings)


def _stop_at_once(
    model: Transformer, sampler: Sampler, passage: Passage, key: Key
) -> tuple[Array, Array]:
    found = reagent(
        probs_of_prompts(model, passage),
        passage.prompt_T,
        target=passage.target,
        sampler=sampler,
        key=key,
        n_probes=PROBES,
        max_steps=MOST_STEPS,
    )
    return found.scores_T, found.forward_passes
