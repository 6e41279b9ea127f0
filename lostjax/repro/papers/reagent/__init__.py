"""ReAGent against seven baselines, on language models of three sizes.

Zhao and Shan, "ReAGent: A Model-agnostic Feature Attribution Method for Generative
Language Models", 2024, arXiv:2402.00794. Its claim: ReAGent's attribution is more
faithful than that of the baselines, by soft normalised sufficiency and
comprehensiveness, on models of several sizes.

    ReAGent                    10 steps or more, replacements that fit both neighbours
    ReAGent, published stop    the same, but a probe may stop at its first step
    ReAGent, uniform           ten steps or more, any other token as replacement
    random                     the control: scores that know nothing

Every method explains the same tokens of the same models, and is judged with the same
masks: by the ranks of its scores, because the share that is masked decides the measures
(`analysis.rank_scores`). Two tasks: the token that a model finds most likely after 32
tokens of a held-out speech, and the answer to a planted key (`reagent.models`), which
is one of 32 tokens.

No method is tuned: all have the settings of `python -m lostjax.attribute`, which were
there before. The models' steps and learning rates (the better of two) were settled on
validation speeches, by loss and right answers alone. A model has to answer nine of ten
keys, or nothing is measured. A seed is an initialisation, an order of the text and a
draw of prompts.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache

import numpy as np

from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.reagent.models import (
    N_KEYS,
    PLACES,
    PROMPT,
    VOCAB,
    Size,
    train_model,
)
from lostjax.repro.papers.reagent.scoring import (
    PROBES,
    PUBLISHED,
    RANDOM,
    UNIFORM,
    Found,
    Prompts,
    draw_prompts,
    score_prompts,
)
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import WITHOUT_RATE
from lostjax.typing import Variables

SIZES = (Size(24, 2, 0.02), Size(48, 2, 0.01), Size(96, 2, 0.0025))

REAGENT = "ReAGent"
BASELINES = {
    "gradient norm": "gradient_norm",
    "gradient x input": "gradient_times_input",
    "integrated gradients": "integrated_gradients",
    "attention": "attention",
    "attention rollout": "rollout",
    "occlusion": "occlusion",
    "LIME": "lime",
}
NAMES = {
    REAGENT: "reagent",
    "ReAGent, published stop": PUBLISHED,
    "ReAGent, uniform": UNIFORM,
    **BASELINES,
    "random": RANDOM,
}
"""Rows and their methods."""

LOST = "1 - sufficiency"
KEPT = "1 - comprehensiveness"
"""Both normalised, means over the sizes; less is more faithful."""
MISSED = "planted keys missed, %"
PASSES = "forward passes"
CHANCE = 100 * (1 - 1 / PROMPT)


@dataclasses.dataclass(frozen=True)
class Explaining:
    """A method, and the models whose tokens it explains."""

    method: str = "reagent"
    sizes: int = 3
    """The first so many of `SIZES`."""
    steps: int = 1000
    batch_size: int = 32
    prompts: int = 64
    """Of each kind, for each model."""


def measure(config: Explaining, rate: float | None, seed: int) -> dict[str, float]:
    """Explain tokens of one seed's models."""
    del rate
    found: dict[str, float] = {}
    missed, passes = [], []
    for size in SIZES[: config.sizes]:
        variables = _train(size, config.steps, config.batch_size, seed)
        text, planted = (
            _score(config, size, variables, planted=planted, seed=seed)
            for planted in (False, True)
        )
        found[_of(LOST, size)] = 1 - _mean(text[0].sufficiency_P)
        found[_of(KEPT, size)] = 1 - _mean(text[0].comprehensiveness_P)
        highest_P = np.abs(planted[0].scores_PT).argmax(axis=1)
        missed.append(100 * _mean(highest_P != np.asarray(planted[1].places_P)))
        passes.append(_mean(text[0].passes_P))
    return {
        **{
            name: _mean([found[_of(name, size)] for size in SIZES[: config.sizes]])
            for name in (LOST, KEPT)
        },
        MISSED: _mean(missed),
        PASSES: _mean(passes),
        **{
            _of(name, size): found.get(_of(name, size), float("nan"))
            for name in (LOST, KEPT)
            for size in SIZES
        },
    }


def _of(measure: str, size: Size) -> str:
    return f"{measure}, width {size.width}"


def _mean(values: object) -> float:
    return float(np.mean(np.asarray(values, np.float64)))


def _score(
    config: Explaining, size: Size, variables: Variables, *, planted: bool, seed: int
) -> tuple[Found, Prompts]:
    prompts = _draw(size, config, seed, planted)
    found = score_prompts(config.method, size, variables, prompts=prompts, seed=seed)
    return found, prompts


@cache
def _train(size: Size, steps: int, batch_size: int, seed: int) -> Variables:
    """Train the model that all methods of a seed explain."""
    return train_model(size, steps=steps, batch_size=batch_size, seed=seed)


def _draw(size: Size, config: Explaining, seed: int, planted: bool) -> Prompts:
    return _draw_once(
        size, config.steps, config.batch_size, config.prompts, seed, planted
    )


@cache
def _draw_once(
    size: Size, steps: int, batch_size: int, count: int, seed: int, planted: bool
) -> Prompts:
    return draw_prompts(
        size,
        _train(size, steps, batch_size, seed),
        count=count,
        seed=seed,
        part="test_L",
        key=planted,
    )


def build_methods(scale: Scale[Explaining]) -> dict[str, Explaining]:
    """Build a row for each method."""
    return {
        name: dataclasses.replace(scale.config, method=method)
        for name, method in NAMES.items()
    }


def _compare() -> Iterator[Comparison]:
    measures = ((LOST, "sufficient"), (KEPT, "comprehensive"))
    published = "ReAGent, published stop"
    for first in (REAGENT, published):
        for second in BASELINES:
            for measure, word in measures:
                yield Comparison(
                    first, second, f"{first} is more {word} than {second}", measure
                )
    for measure, word in measures:
        yield Comparison(
            REAGENT, published, f"ten steps at least make it more {word}", measure
        )
        yield Comparison(
            REAGENT,
            "ReAGent, uniform",
            f"replacements that fit both neighbours make it more {word}",
            measure,
        )
        for name in (REAGENT, published):
            yield Comparison(
                name, "random", f"control: {name} is more {word} than random", measure
            )
    for name in (REAGENT, published, "ReAGent, uniform"):
        yield Comparison(
            name, CHANCE, f"{name} finds planted keys more often than chance", MISSED
        )
    for second in BASELINES:
        yield Comparison(
            REAGENT, second, f"ReAGent finds more planted keys than {second}", MISSED
        )


def describe(scale: Scale[Explaining]) -> str:
    """Describe the setting."""
    config = scale.config
    widths = ", ".join(str(size.width) for size in SIZES[: config.sizes])
    return (
        f"Every model: two layers of width {widths}, text `sotu`, tokenizer "
        f"`bpe:{VOCAB}`, {config.steps} steps of {config.batch_size} rows, half of "
        f"them with one of {N_KEYS} keys at the first {PLACES} places of {PROMPT}, and "
        f"its answer after them. Methods explain {config.prompts} most likely tokens "
        f"and {config.prompts} right answers of each model on held-out speeches. "
        "Measures are means over the models; sufficiency and comprehensiveness are "
        "normalised, of the scores' ranks. A key is missed if another of the "
        f"{PROMPT} tokens has the highest score: chance is {CHANCE:.4g} %. ReAGent has "
        f"{PROBES} probes. A backward pass counts as two forward passes."
    )


EXPERIMENT = Experiment(
    paper="ReAGent: Feature Attribution for Generative LMs (arXiv:2402.00794)",
    scales={
        "smoke": Scale(
            Explaining(sizes=1, steps=600, prompts=2),
            methods=(REAGENT, "gradient norm", "random"),
        ),
        "small": Scale(Explaining()),
    },
    methods=build_methods,
    comparisons=tuple(_compare()),
    measures=(
        LOST,
        KEPT,
        MISSED,
        PASSES,
        *(_of(name, size) for name in (LOST, KEPT) for size in SIZES),
    ),
    setting=describe,
    train=each_seed(measure),
    tuning=WITHOUT_RATE,
    interval=PAIRED,
    seeds=3,
)
