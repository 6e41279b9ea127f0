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
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses
from lostjax.data import Pictograms, load_digits, load_openmoji
from lostjax.data.samples.captions import (
    FRAME,
    FRAME_WORDS,
    IMAGE,
    START,
    Captions,
    caption_pictures,
)
from lostjax.data.samples.families import split_families
from lostjax.nn import PatchEncoder, Transformer, sample_tokens
from lostjax.repro.experiment import Experiment, Scale
from lostjax.repro.findings import PAIRED, Comparison
from lostjax.repro.runs import each_seed
from lostjax.repro.tune import TUNE_ON_FIRST_SEED
from lostjax.steps import fit
from lostjax.typing import Array, Float, PyTree

CHOICE = "validation loss of image words, mnats"
LOSS, ERROR = "loss of image words, mnats", "error of image words, %"
FRAME_LOSS, FRAME_ERROR = "loss of frame words, mnats", "error of frame words, %"
HALLUCINATED, MISSED = "hallucinated, %", "missed, %"
"""Names of the measures; all but the first are of the test pictures."""

LENGTH, VOCABULARY, VARIANTS = 16, 1536, 12
"""Tokens of a caption, of the vocabulary, and pictures of one family at most."""
SHARES = (0.7, 0.15)
"""Of the families: to train on, to choose the learning rate by; the rest are tests."""
REFERENCE_RATE = 4e-3
DESCRIBED = 256
"""Test pictures that are described by greedy captions."""


@dataclasses.dataclass(frozen=True)
class Captioning:
    """What is trained on what, and how its tokens count."""

    source: str = "openmoji"
    share: float = 1.0
    """Of the families to train on."""
    width: int = 48
    layers: int = 2
    encoder_layers: int = 0
    sees: bool = True
    """Whether the model sees the picture; the reference does not."""
    steps: int = 300
    batch: int = 32
    alpha: float = 0.0
    """0: every token counts the same."""
    min_weight: float = 0.0
    shuffled: bool = False


class Task(NamedTuple):
    """Pictures, captions and a split of both."""

    images_NHWC: Array
    captions: Captions
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Data(NamedTuple):
    """What a run is trained on, as arrays."""

    images_NHWC: Array
    tokens_NT: Array
    kinds_NT: Array
    factors_NT: Array
    """How much each token counts besides whether it is there."""
    rows_SB: Array
    """Pictures of each step."""


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


@cache
def load_pictures(source: str) -> Pictograms:
    """Load pictures with annotations and tags, centred at 0."""
    if source == "openmoji":
        found = load_openmoji(size=24)
        # White is the ground: ink is what differs from it.
        return found._replace(images=1 - found.images)
    digits = load_digits()
    names = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    ]
    facts = [("odd" if digit % 2 else "even", "digit") for digit in range(10)]
    codes = tuple(map(str, range(len(digits.labels))))
    return Pictograms(
        images=np.repeat(digits.inputs[..., None], 3, axis=-1),
        codes=codes,
        families=codes,
        annotations=tuple(f"handwritten {names[label]}" for label in digits.labels),
        tags=tuple(facts[label] for label in digits.labels),
        groups=("digits",) * len(codes),
        subgroups=("",) * len(codes),
        licence=digits.licence,
        source=digits.source,
    )


@cache
def make_task(source: str, share: float, seed: int) -> Task:
    """Split the families, and caption their pictures."""
    pictures = load_pictures(source)
    parts = split_families(pictures.families, shares=SHARES, seed=seed, most=VARIANTS)
    whole, validation, test = (sum(part, ()) for part in parts)
    train = sum(parts[0][: round(share * len(parts[0]))], ())
    captions = caption_pictures(
        pictures,
        # One vocabulary for all sizes of the data, so that their losses compare.
        train_rows=whole,
        vocab_size=VOCABULARY,
        length=LENGTH,
        seed=seed,
    )
    rows = (train, validation, test)
    return Task(jnp.asarray(pictures.images), captions, *map(np.asarray, rows))


def build_model(config: Captioning) -> tuple[Transformer, PatchEncoder]:
    """Build the language model and what embeds pictures for it."""
    model = Transformer(
        vocab_size=VOCABULARY,
        d_model=config.width,
        n_layers=config.layers,
        n_heads=2,
        d_hidden=8 * config.width // 3 // 4 * 4,
    )
    encoder = PatchEncoder(
        patch=8 if config.source == "openmoji" else 4,
        d_model=config.width,
        n_layers=config.encoder_layers,
        n_heads=2,
        d_hidden=2 * config.width,
    )
    return model, encoder


def compute_logits(
    config: Captioning, params: PyTree, images_BHWC: Array, tokens_BT: Array
) -> Float[Array, "B T V"]:
    """Compute the logits of captions, from pictures if the model sees them."""
    model, _ = build_model(config)
    logits: Any = model.apply(
        {"params": params["model"]},
        tokens_BT,
        prefix_BPD=embed_pictures(config, params, images_BHWC),
    )
    made: Array = logits
    return made


def embed_pictures(
    config: Captioning, params: PyTree, images_BHWC: Array
) -> Float[Array, "B P D"] | None:
    """Embed pictures for the language model; None if it does not see them."""
    if not config.sees:
        return None
    _, encoder = build_model(config)
    embedded: Any = encoder.apply({"params": params["encoder"]}, images_BHWC)
    made: Array = embedded
    return made


def run(config: Captioning, data: Data, rate: float, key: Array) -> PyTree:
    """Train one model; returns its parameters."""
    return _run(_shape_of(config), data, jnp.float32(rate), key)


def _shape_of(config: Captioning) -> Captioning:
    """Return what a program depends on: one is compiled for all weights."""
    return dataclasses.replace(config, alpha=0.0, min_weight=0.0, shuffled=False)


@partial(jax.jit, static_argnames="config")
def _run(config: Captioning, data: Data, rate: Array, key: Array) -> PyTree:
    model, encoder = build_model(config)
    shape = optax.warmup_cosine_decay_schedule(
        0.0, 1.0, config.steps // 10, config.steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda step: rate * shape(step), b2=0.95, weight_decay=0.1),
    )

    def loss(params: PyTree, rows_B: Array) -> Array:
        tokens_BT = data.tokens_NT[rows_B]
        logits_BTV = compute_logits(
            config, params, data.images_NHWC[rows_B], tokens_BT[:, :-1]
        )
        values_BT = losses.next_token_loss(logits_BTV, tokens_BT[:, 1:])
        return losses.weighted_mean(values_BT, data.factors_NT[rows_B])

    def step(state: Any, rows_B: Array) -> tuple[Any, None]:
        params, opt_state = state
        grads = jax.grad(loss)(params, rows_B)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    first_key, second_key = jax.random.split(key)
    params = {
        "model": model.init(first_key, data.tokens_NT[:1, :-1])["params"],
        "encoder": encoder.init(second_key, data.images_NHWC[:1])["params"],
    }
    state = params, tx.init(params)
    made = fit(
        step, state, batch_at=lambda number: data.rows_SB[number], n_steps=config.steps
    )
    return made.state[0]


def score_captions(
    config: Captioning,
    params: PyTree,
    data: Data,
    *,
    rows: np.ndarray | None = None,
) -> tuple[Array, Array]:
    """Compute the loss of every token of captions, and whether its guess is wrong.

    Args:
      config: the model's.
      params: the model's.
      data: pictures and captions.
      rows: pictures whose captions are scored; None for all.

    Returns:
      Two arrays (rows, T).
    """
    if rows is None:
        rows = np.arange(len(data.tokens_NT))
    # Splits of different seeds differ by a few rows: one program for all.
    padded = np.resize(rows, -(-len(rows) // 256) * 256)
    losses_NT, wrong_NT = _score_captions(
        _shape_of(config), params, data.images_NHWC[padded], data.tokens_NT[padded]
    )
    return losses_NT[: len(rows)], wrong_NT[: len(rows)]


@partial(jax.jit, static_argnames="config")
def _score_captions(
    config: Captioning, params: PyTree, images_NHWC: Array, tokens_NT: Array
) -> tuple[Array, Array]:
    def one(row: tuple[Array, Array]) -> tuple[Array, Array]:
        image_HWC, tokens_T = row
        logits_1TV = compute_logits(
            config, params, image_HWC[None], tokens_T[None, :-1]
        )
        values_1T = losses.next_token_loss(logits_1TV, tokens_T[None, 1:])
        wrong_T = jnp.argmax(logits_1TV[0], axis=-1) != tokens_T[1:]
        return values_1T[0], wrong_T.astype(jnp.float32)

    scored: tuple[Array, Array]
    scored = jax.lax.map(one, (images_NHWC, tokens_NT), batch_size=64)
    return scored


def make_data(task: Task, config: Captioning, *, seed: int) -> Data:
    """Put the data on the device, every token of a caption counting the same."""
    rng = np.random.default_rng(seed)
    epochs = -(-config.steps * config.batch // len(task.train))
    order = np.concatenate([rng.permutation(task.train) for _ in range(epochs)])
    rows = order[: config.steps * config.batch].reshape(config.steps, config.batch)
    kinds_NT = jnp.asarray(task.captions.kinds_NT)
    return Data(
        task.images_NHWC,
        jnp.asarray(task.captions.tokens_NT),
        kinds_NT,
        (kinds_NT > 0).astype(jnp.float32),
        jnp.asarray(rows),
    )


@cache
def weigh_tokens(config: Captioning, seed: int) -> Array:
    """Train the reference of a method, and compute the factors of all captions once."""
    reference = dataclasses.replace(_shape_of(config), sees=False, encoder_layers=0)
    kinds_NT = make_task(config.source, config.share, seed).captions.kinds_NT
    there_NT = jnp.asarray(kinds_NT > 0, jnp.float32)
    factors_NT = there_NT * losses.surprisal_weights_of_losses(
        score_reference(reference, seed),
        alpha=config.alpha,
        min_weight=config.min_weight,
        weights=there_NT,
    )
    if config.shuffled:
        factors_NT = jnp.asarray(_shuffle(np.array(factors_NT), seed=seed))
    return factors_NT


@cache
def score_reference(reference: Captioning, seed: int) -> Array:
    """Train the language model of the text alone; returns its losses (N, T)."""
    task = make_task(reference.source, reference.share, seed)
    data = make_data(task, reference, seed=seed)
    # Another start than that of the models that its weights are for.
    params = run(reference, data, REFERENCE_RATE, jax.random.key(seed + 1000))
    losses_NT: Array
    losses_NT, _ = score_captions(reference, params, data)
    return losses_NT


def _shuffle(factors_NT: np.ndarray, *, seed: int) -> np.ndarray:
    """Shuffle the factors of each caption among its tokens."""
    rng = np.random.default_rng(seed)
    for factors_T in factors_NT:
        there = np.flatnonzero(factors_T)
        factors_T[there] = rng.permutation(factors_T[there])
    return factors_NT


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
