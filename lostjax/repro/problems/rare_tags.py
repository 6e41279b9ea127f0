"""Rare tags of words: one yes-or-no question a tag, of each word.

A word is seen with two words on either side, each as its number in a vocabulary and the
number of a clue: in the Brown corpus of its last three letters, in tweets of its shape
and last two letters, because names are written large. A perceptron answers for one tag;
all tags and all settings of a loss train side by side.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax.data import TaggedText, load_brown, load_tweets
from lostjax.nn import MLP
from lostjax.steps import fit
from lostjax.typing import Array, Float, Key, PyTree

TAGS = ("ql", "rp", "rbr", "uh")
"""Qualifiers (very, so), .75 % of all words; particles (up, out), .52 %; comparative
adverbs (more, better), .10 %; interjections (oh, well), .05 %."""
ENTITIES = ("person", "geo-loc", "facility", "company")
"""Of tweets: 1.43, .70, .45 and .45 % of all words."""
BROWN, TWEETS = "the Brown corpus", "tweets"

WINDOW, WORDS, ENDINGS, WIDTH, HIDDEN = 5, 4096, 1024, 12, 64
"""Words that are seen; words and endings that are told apart; size of their
embeddings; hidden units."""

Loss = Callable[[Array, Array, Any], Array]
"""From logits (B,), labels (B,) and a setting to a scalar."""


@dataclasses.dataclass(frozen=True)
class Tagging:
    """Size of a run, its loss, and the settings that it chooses among."""

    loss: str = "cross entropy"
    settings: tuple[float, ...] = (0.0,)
    shuffled: bool = False
    """Labels are those of other words."""
    data: str = BROWN
    """Or `tweets`."""
    tags: tuple[str, ...] = TAGS
    first: str = ""
    """The loss of the first half of the steps, if it is another one."""
    train_texts: int = 120
    valid_texts: int = 40
    test_texts: int = 80
    steps: int = 800
    rows: int = 512

    def without_method(self) -> "Tagging":
        """Leave out what differs between methods, which share data."""
        return dataclasses.replace(
            self, loss="", settings=(), shuffled=False, first="", steps=0, rows=0
        )


class Part(NamedTuple):
    """Words of some texts."""

    seen_NW2: np.ndarray
    """Numbers of the words in the window and of their endings, int32."""
    labels_NT: np.ndarray
    """Whether a word has the tag, bool."""


@cache
def _load(data: str) -> tuple[TaggedText, ...]:
    if data == BROWN:
        return load_brown()
    # Of tweets that were sent again one stays, or a seed would be tested on what it
    # was trained on.
    return tuple({tweet.sentences: tweet for tweet in load_tweets()}.values())


@cache
def draw_parts(config: Tagging, seed: int) -> tuple[Part, Part, Part]:
    """Draw texts to train on, to tune on and to test on; no text is in two of them."""
    texts = _load(config.data)
    counts = (config.train_texts, config.valid_texts, config.test_texts)
    order = np.random.default_rng(seed).permutation(len(texts))
    chosen = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
    train, valid, test = ([texts[number] for number in part] for part in chosen)
    known = [w.lower() for text in train for s in text.sentences for w in s]
    words = _number_most_common(known, WORDS - 2)
    clue = CLUES[config.data]
    clues = [clue(w) for text in train for s in text.sentences for w in s]
    numbers = words, _number_most_common(clues, ENDINGS - 2)
    first, second, third = (
        _number(part, numbers, config) for part in (train, valid, test)
    )
    return first, second, third


def end_of(word: str) -> str:
    """Return the last three letters."""
    return word.lower()[-3:]


def shape_of(word: str) -> str:
    """Return what kinds of signs a word has, and its last two letters: `Aa-Aa ck`."""
    shape = re.sub("[A-Z]+", "A", re.sub("[a-z]+", "a", re.sub("[0-9]+", "0", word)))
    return f"{shape[:6]} {word.lower()[-2:]}"


CLUES: dict[str, Callable[[str], str]] = {BROWN: end_of, TWEETS: shape_of}


def _number_most_common(found: Sequence[str], count: int) -> dict[str, int]:
    most_common = Counter(found).most_common(count)
    return {one: number for number, (one, _) in enumerate(most_common)}


def _number(
    texts: Sequence[TaggedText],
    numbers: tuple[dict[str, int], dict[str, int]],
    config: Tagging,
) -> Part:
    """Number the words; the last two numbers are for unknown ones and for none."""
    (words, clues), clue = numbers, CLUES[config.data]
    # `np-tl` is of np, `B-person` of person; `O` of neither.
    place = 0 if config.data == BROWN else 1
    reach = WINDOW // 2
    seen, labels = [], []
    for text in texts:
        for sentence, tags in zip(text.sentences, text.tags, strict=True):
            pairs = [
                (words.get(w.lower(), WORDS - 2), clues.get(clue(w), ENDINGS - 2))
                for w in sentence
            ]
            edge = [(WORDS - 1, ENDINGS - 1)] * reach
            row = np.array([*edge, *pairs, *edge], np.int32)
            seen.append(np.lib.stride_tricks.sliding_window_view(row, WINDOW, axis=0))
            bases = [tag.split("-", 1)[place:][:1] for tag in tags]
            labels.append([[base == [tag] for tag in config.tags] for base in bases])
    return Part(
        np.concatenate(seen).swapaxes(1, 2),
        np.concatenate([np.array(x) for x in labels]),
    )


def apply(params: PyTree, seen_BW2: Array) -> Float[Array, "B"]:
    """Compute the logits of one tag."""
    words = params["words"][seen_BW2[..., 0]]
    endings = params["endings"][seen_BW2[..., 1]]
    inputs = jnp.concatenate([words, endings], -1).reshape(len(seen_BW2), -1)
    logits_B1 = jnp.asarray(MLP((HIDDEN, 1)).apply(params["mlp"], inputs))
    return logits_B1[..., 0]


def start(key: Key) -> PyTree:
    """Draw the parameters of one tag's network."""
    keys = jax.random.split(key, 3)
    inputs = jnp.zeros((1, 2 * WINDOW * WIDTH))
    return {
        "words": jax.random.normal(keys[0], (WORDS, WIDTH)),
        "endings": jax.random.normal(keys[1], (ENDINGS, WIDTH)),
        "mlp": MLP((HIDDEN, 1)).init(keys[2], inputs),
    }


@partial(jax.jit, static_argnames=("loss", "first", "config"))
def train_all(
    part: Part,
    n_rows: Array,
    settings_S: Array,
    key: Key,
    rate: Array,
    *,
    loss: Loss,
    first: Loss,
    config: Tagging,
) -> PyTree:
    """Train a network for every setting and tag; leaves (S, T, ...).

    Rows up to `n_rows` are drawn from. `first` is descended in the first half of the
    steps, if the configuration has one.
    """
    schedule = optax.cosine_decay_schedule(1.0, config.steps)
    tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(schedule))

    def one(setting: Array, tag: Array) -> PyTree:
        def value(params: PyTree, batch: tuple[Array, Array, Array]) -> Array:
            seen_BW2, labels_B, number = batch
            arguments = apply(params, seen_BW2), labels_B, setting
            if not config.first:
                return loss(*arguments)
            half = config.steps // 2
            return jnp.where(number < half, first(*arguments), loss(*arguments))

        def step(state: PyTree, batch: PyTree) -> tuple[PyTree, tuple[()]]:
            params, opt = state
            moves, opt = tx.update(jax.grad(value)(params, batch), opt)
            moves = jax.tree.map(lambda move: -rate * move, moves)
            return (optax.apply_updates(params, moves), opt), ()

        def batch_at(number: Array) -> tuple[Array, Array, Array]:
            draw, mix = jax.random.split(jax.random.fold_in(key, number))
            rows_B = jax.random.randint(draw, (config.rows,), 0, n_rows)
            labels_B = part.labels_NT[rows_B, tag]
            if config.shuffled:
                labels_B = jax.random.permutation(mix, labels_B)
            return part.seen_NW2[rows_B], labels_B.astype(jnp.int32), number

        params = start(jax.random.fold_in(key, config.steps))
        state = (params, tx.init(params))
        return fit(
            step,
            state,
            batch_at=batch_at,
            n_steps=config.steps,
            log_every=config.steps,
        ).state[0]

    tags_T = jnp.arange(len(config.tags))
    each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return each(settings_S, tags_T)


def _pad(part: Part, *, rows: int = 2**15) -> Part:
    """Add rows that are not drawn: seeds of one length share a program."""
    more = -len(part.seen_NW2) % rows
    return Part(*(np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)) for x in part))


@jax.jit
def score(params: PyTree, seen_BW2: Array) -> Float[Array, "S T B"]:
    """Compute the logits of every setting and tag."""
    each = jax.vmap(jax.vmap(apply, (0, None)), (0, None))
    return each(params, seen_BW2)


def score_part(params: PyTree, part: Part, *, rows: int = 4096) -> np.ndarray:
    """Compute all logits (S, T, N) in chunks."""
    n_rows = len(part.seen_NW2)
    padded = np.pad(part.seen_NW2, [(0, -n_rows % rows), (0, 0), (0, 0)])
    chunks = padded.reshape(-1, rows, *padded.shape[1:])
    found = [np.asarray(score(params, chunk)) for chunk in chunks]
    return np.concatenate(found, axis=-1)[..., :n_rows]


def find_threshold(logits_N: np.ndarray, labels_N: np.ndarray) -> tuple[float, float]:
    """Find the threshold of the highest F1 score, and 1 - F1 at it.

    Logits above the threshold are positive. It lies half way between two logits.
    """
    order = np.argsort(-logits_N, kind="stable")
    hits = np.cumsum(labels_N[order])
    scores = 2 * hits / (np.arange(1, len(order) + 1) + labels_N.sum())
    ranked = logits_N[order]
    # Equal logits cannot be told apart.
    scores = np.where(np.append(ranked[:-1] > ranked[1:], True), scores, -1)
    best = int(np.argmax(scores))
    below = ranked[best + 1] if best + 1 < len(ranked) else -math.inf
    return float((ranked[best] + below) / 2), float(1 - scores[best])


def miss_f1(logits_N: np.ndarray, labels_N: np.ndarray, threshold: float) -> float:
    """Compute 1 - F1 of logits above a threshold."""
    positive = logits_N > threshold
    total = positive.sum() + labels_N.sum()
    return float(1 - 2 * (positive & labels_N).sum() / total) if total else 1.0


VALID, TUNED, HALF = "tuning: 1 - F1", "1 - F1", "1 - F1 at p = .5"
"""Means over the tags: of the texts that are tuned on; of the tested ones, at the
threshold that was tuned and at one half."""


def list_measures(tags: Sequence[str]) -> tuple[str, ...]:
    """Name what is measured: the means over tags, and 1 - F1 of each when tuned."""
    return (TUNED, HALF, *(f"{tag}: {TUNED}" for tag in tags))


def measure(
    config: Tagging, rate: float, seed: int, *, losses: Mapping[str, Loss]
) -> dict[str, float]:
    """Train, choose each tag's setting and threshold, and test; NaN if it diverged."""
    train, valid, test = draw_parts(config.without_method(), seed)
    params = train_all(
        _pad(train),
        jnp.int32(len(train.seen_NW2)),
        jnp.asarray(config.settings, jnp.float32),
        jax.random.key(seed),
        jnp.float32(rate),
        loss=losses[config.loss],
        first=losses[config.first or config.loss],
        config=dataclasses.replace(config, loss="", settings=()),
    )
    valid_STN, test_STN = score_part(params, valid), score_part(params, test)
    names = list_measures(config.tags)
    if not np.isfinite(valid_STN).all():
        return dict.fromkeys((VALID, *names), math.nan)
    found: dict[str, list[float]] = {VALID: [], TUNED: [], HALF: []}
    for tag in range(len(config.tags)):
        labels_N = valid.labels_NT[:, tag]
        tuned = [find_threshold(logits_TN[tag], labels_N) for logits_TN in valid_STN]
        best = int(np.argmin([missed for _, missed in tuned]))
        threshold, missed = tuned[best]
        logits_N, labels_N = test_STN[best, tag], test.labels_NT[:, tag]
        found[VALID].append(missed)
        found[TUNED].append(miss_f1(logits_N, labels_N, threshold))
        found[HALF].append(miss_f1(logits_N, labels_N, 0.0))
    each = dict(zip(names[2:], found[TUNED], strict=True))
    return {name: float(np.mean(values)) for name, values in found.items()} | each
