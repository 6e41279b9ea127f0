"""Captions of pictograms: more weight for the words that only the picture explains.

Chen et al., "Prioritizing Image-Related Tokens Enhances Vision-Language Pre-Training",
2025, arXiv:2505.08971, weigh each token of a caption by how little a model of the text
alone expected it. Their claim is a better model at equal steps, with a visual encoder
and without, more so the larger it is.

The pictures are OpenMoji's 4,495 pictograms with their annotations and tags, in
captions with a frame (`data.samples.captions`). Image words are those of annotation and
tags, frame words all others; so it was settled before anything was measured. A seed is
a split by families (skin tones, genders and directions of one pictogram are one family,
of which at most 12 are used): 70 % to train on, 15 % for the choice of the learning
rate, 15 % to measure on, the same for all methods.

Settled before the methods were compared: the model trains for the same steps with every
method; the reference is the language model without a picture, trained on the same
captions for as many steps, at a learning rate that was chosen by its own loss on the
validation captions; alpha is .5, 1 and 2; a floor of .1. The control has the weights of
alpha 1, shuffled within each caption. Hallucinated are words of a greedy caption, other
than frame words, that are said nowhere of the picture; missed are those of the picture,
of the vocabulary, that the greedy caption does not name.

The smoke scale captions scikit-learn's digits, so that it needs no further package.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.data.samples.captions import FRAME, FRAME_WORDS, IMAGE, START
from lostjax.nn import sample_tokens
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.papers.image_tokens.pictures import (
    LENGTH,
    VOCABULARY,
    Captioning,
    Task,
    make_data,
    make_task,
)
from lostjax.repro.papers.image_tokens.training import (
    build_model,
    embed_pictures,
    run,
    score_captions,
    weigh_tokens,
)
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED
from lostjax.typing import PyTree

CHOICE = "validation loss of image words, mnats"
LOSS, ERROR = "loss of image words, mnats", "error of image words, %"
FRAME_LOSS, FRAME_ERROR = "loss of frame words, mnats", "error of frame words, %"
HALLUCINATED, MISSED = "hallucinated, %", "missed, %"
"""Names of the measures; all but the first are of the test pictures."""

DESCRIBED = 256
"""Test pictures that are described by greedy captions."""


def build_methods(scale: Scale[Captioning]) -> dict[str, Captioning]:
    """Derive every method from plain next-token loss."""
    plain = scale.config
    change = partial(dataclasses.replace, plain)
    half = partial(change, share=0.5, width=3 * plain.width // 4)
    quarter = partial(change, share=0.25, width=plain.width // 2)
    return {
        "plain": plain,
        "alpha .5": change(alpha=0.5),
        "alpha 1": change(alpha=1.0),
        "alpha 2": change(alpha=2.0),
        "alpha 1, floor .1": change(alpha=1.0, min_weight=0.1),
        "shuffled": change(alpha=1.0, shuffled=True),
        "without picture": change(sees=False),
        "encoder, plain": change(encoder_layers=1),
        "encoder, alpha 1": change(encoder_layers=1, alpha=1.0),
        "half, plain": half(),
        "half, alpha 1": half(alpha=1.0),
        "quarter, plain": quarter(),
        "quarter, alpha 1": quarter(alpha=1.0),
    }


def _compare(first: str, second: str, measure: str) -> Comparison:
    what = {
        LOSS: "a lower loss of image words",
        ERROR: "fewer errors of image words",
        FRAME_LOSS: "a lower loss of frame words",
        HALLUCINATED: "fewer hallucinated words",
        MISSED: "fewer missed words",
    }
    return Comparison(
        first, second, f"{first} has {what[measure]} than {second}", measure
    )


COMPARISONS = (
    _compare("plain", "without picture", LOSS),
    _compare("alpha 1", "plain", LOSS),
    _compare("alpha 1", "plain", ERROR),
    _compare("alpha 1", "plain", HALLUCINATED),
    _compare("alpha 1", "plain", MISSED),
    _compare("alpha .5", "plain", LOSS),
    _compare("alpha 2", "plain", LOSS),
    _compare("alpha 1, floor .1", "plain", LOSS),
    _compare("encoder, alpha 1", "encoder, plain", LOSS),
    _compare("encoder, alpha 1", "encoder, plain", ERROR),
    _compare("half, alpha 1", "half, plain", LOSS),
    _compare("quarter, alpha 1", "quarter, plain", LOSS),
    _compare("plain", "alpha 1", FRAME_LOSS),
    _compare("alpha 1, floor .1", "alpha 1", FRAME_LOSS),
    _compare("plain", "shuffled", LOSS),
    _compare("alpha 1", "shuffled", LOSS),
)


def train(config: Captioning, rate: float | None, seed: int) -> dict[str, float]:
    """Train one model on one split, and measure it."""
    assert rate is not None
    task = make_task(config.source, config.share, seed)
    data = make_data(task, config, seed=seed)
    if config.alpha:
        data = data._replace(factors_NT=weigh_tokens(config, seed))
    params = run(config, data, rate, jax.random.key(seed))
    kinds_NT = task.captions.kinds_NT

    def read(rows: np.ndarray, kind: int) -> tuple[float, float]:
        """Return loss and error of the tokens of one kind."""
        scored = score_captions(config, params, data, rows=rows)
        chosen = kinds_NT[rows] == kind
        loss, error = (float(np.asarray(each)[chosen].mean()) for each in scored)
        return 1000 * loss, 100 * error

    loss, error = read(task.test, IMAGE)
    frame_loss, frame_error = read(task.test, FRAME)
    hallucinated, missed = describe_pictures(config, params, task)
    return {
        CHOICE: read(task.validation, IMAGE)[0],
        LOSS: loss,
        ERROR: error,
        FRAME_LOSS: frame_loss,
        FRAME_ERROR: frame_error,
        HALLUCINATED: hallucinated,
        MISSED: missed,
    }


def describe_pictures(
    config: Captioning, params: PyTree, task: Task
) -> tuple[float, float]:
    """Caption test pictures greedily; returns hallucinated and missed words in %."""
    model, _ = build_model(config)
    rows, captions = task.test[:DESCRIBED], task.captions
    prompt = [START, *map(captions.words.index, ("a", "picture", "of"))]
    tokens_BT = sample_tokens(
        model,
        {"params": params["model"]},
        prompt_BT=jnp.tile(jnp.asarray(prompt, jnp.int32), (len(rows), 1)),
        n_tokens=LENGTH - len(prompt),
        key=jax.random.key(0),
        temperature=0.0,
        prefix_BPD=embed_pictures(config, params, task.images_NHWC[rows]),
    )
    outside = set(range(START + 3)) | {captions.words.index(w) for w in FRAME_WORDS}
    named = false = there = missed = 0
    for row, tokens_T in zip(rows, np.asarray(tokens_BT), strict=True):
        end = np.flatnonzero(tokens_T == START + 1)
        told = set(tokens_T[: end[0] if len(end) else None].tolist()) - outside
        told = {token for token in told if token < len(captions.words)}
        true = captions.said[row]
        named, false = named + len(told), false + len(told - true)
        there, missed = there + len(true), missed + len(true - told)
    return 100 * false / named if named else np.nan, 100 * missed / there


def describe(scale: Scale[Captioning]) -> str:
    """Describe the setting."""
    config = scale.config
    return (
        f"Every run: {config.steps} steps of {config.batch} captions. A language model "
        f"of {config.layers} layers of width {config.width} sees the patches of a "
        "picture before the words, as they are or by an encoder of one layer. The rows "
        "`half` and `quarter` train on that share of the families, with widths of "
        f"{3 * config.width // 4} and {config.width // 2}. Image words are those of "
        "annotation and tags, frame words all others. Losses and errors are of "
        f"held-out families, of words in the vocabulary of {VOCABULARY:,}; the first "
        "measure, by which learning rates are chosen, is of other families than the "
        f"rest. {DESCRIBED} test pictures are described greedily: hallucinated is the "
        "share of the words named that is said nowhere of the picture; missed is the "
        "share of the picture's words that is not named. A seed is a split, the same "
        "for all methods."
    )


RATES = (2e-3, 4e-3, 8e-3)

EXPERIMENT = Experiment(
    paper="Prioritizing Image-Related Tokens (PRIOR, arXiv:2505.08971)",
    scales={
        "smoke": Scale(
            Captioning(source="digits", width=16, layers=1, steps=30),
            (3.2e-2, 6.4e-2, 12.8e-2),
            ("plain", "alpha 1", "without picture"),
        ),
        "small": Scale(Captioning(), RATES),
    },
    methods=build_methods,
    comparisons=COMPARISONS,
    measures=(CHOICE, LOSS, ERROR, FRAME_LOSS, FRAME_ERROR, HALLUCINATED, MISSED),
    train=each_seed(train),
    tuning=TUNE_ON_FIRST_SEED,
    setting=describe,
    interval=PAIRED,
    seeds=5,
)
