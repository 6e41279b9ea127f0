"""Pictures with captions of a few words: frames around what a picture shows.

    a picture of WORDS OF THE ANNOTATION that shows TAG , TAG

The words of the annotation and of the tags are the image's; those of the frame are not.
Which of the frames a caption has is drawn, so that its first words follow neither from
the picture nor from the text before them, as in captions that people wrote. At most
`MOST_TAGS` tags are named, in an order that is drawn, of those in the vocabulary.

A vocabulary is of words: frames', marks', and those that are said of several families
of pictures. A word outside it is `<unknown>` and counts nowhere.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.data.samples.openmoji import Pictograms

FRAMES = (
    ("a picture of", "that shows"),
    ("here we see", "also known as"),
    ("this image contains", "and it is about"),
    ("the drawing is called", "with the words"),
)
"""Words before the annotation and before the tags; of a picture without tags there are
only the first."""

MOST_TAGS = 4

PAD, START, END, UNKNOWN = range(4)
MARKS = ("<pad>", "<start>", "<end>", "<unknown>")

NOTHING, FRAME, IMAGE = range(3)
"""What a token is of: padding and unknown words count nowhere."""

FRAME_WORDS = frozenset({*" ".join(sum(FRAMES, ())).split(), ","})


class Captions(NamedTuple):
    """Captions as tokens, and what each token is of."""

    tokens_NT: np.ndarray
    """(N, T + 1), int32: `<start>`, the words, `<end>`, `<pad>`; cut at T + 1."""
    kinds_NT: np.ndarray
    """What the token after each one is of: `NOTHING`, `FRAME` or `IMAGE`; (N, T)."""
    words: tuple[str, ...]
    """The vocabulary by token."""
    said: tuple[frozenset[int], ...]
    """Tokens of everything that is said of each picture, tags that its caption leaves
    out too, without words that frames have."""


def caption_pictures(
    pictures: Pictograms,
    *,
    train_rows: Sequence[int],
    vocab_size: int,
    length: int,
    seed: int,
    least: int = 2,
) -> Captions:
    """Write a caption for each picture.

    Args:
      pictures: what is captioned.
      train_rows: pictures whose words make the vocabulary.
      vocab_size: V, tokens at most; the words of most families come first.
      length: T, tokens of a caption without its start.
      seed: draws frames and the order of tags.
      least: families that a word is said of, at least.

    Returns:
      The captions; with fewer words than V, the last tokens are never used.

    Raises:
      ValueError: the vocabulary has no room for the words of frames.
    """
    said = [_words((note, *tags)) for note, tags in _lines(pictures)]
    words = (*MARKS, *sorted(FRAME_WORDS))
    if vocab_size <= len(words):
        raise ValueError(f"vocab_size={vocab_size}: must be above {len(words)}")
    families = {
        (pictures.families[row], word) for row in train_rows for word in said[row]
    }
    counts = Counter(word for _, word in families if word not in FRAME_WORDS)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    common = [word for word in ranked if counts[word] >= least]
    words = (*words, *common)[:vocab_size]
    index = {word: token for token, word in enumerate(words)}
    rng = np.random.default_rng(seed)
    written = [
        _write(note, _known(tags, index), rng) for note, tags in _lines(pictures)
    ]
    tokens_NT = np.full((len(written), length + 1), PAD, np.int32)
    kinds_NT = np.full((len(written), length), NOTHING, np.int32)
    for row, caption in enumerate(written):
        tokens = [index.get(word, UNKNOWN) for word, _ in caption]
        kinds = [
            NOTHING if token == UNKNOWN else kind
            for token, (_, kind) in zip(tokens, caption, strict=True)
        ]
        whole = [START, *tokens, END][: length + 1]
        tokens_NT[row, : len(whole)] = whole
        kinds_NT[row, : len(whole) - 1] = [*kinds, FRAME][:length]
    told = tuple(
        frozenset(index[word] for word in each if word in index) for each in said
    )
    return Captions(tokens_NT, kinds_NT, words, told)


def _lines(pictures: Pictograms) -> Iterable[tuple[str, tuple[str, ...]]]:
    return zip(pictures.annotations, pictures.tags, strict=True)


def _write(
    note: str, tags: tuple[str, ...], rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Write one caption: words, and what each is of."""
    before, between = FRAMES[rng.integers(len(FRAMES))]
    caption = [(word, FRAME) for word in before.split()]
    caption += [(word, IMAGE) for word in _split(note)]
    drawn = [tags[place] for place in rng.permutation(len(tags))[:MOST_TAGS]]
    for place, tag in enumerate(drawn):
        joint = "," if place else between
        caption += [(word, FRAME) for word in joint.split()]
        caption += [(word, IMAGE) for word in _split(tag)]
    return caption


def _known(tags: tuple[str, ...], index: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(tag for tag in tags if all(word in index for word in _split(tag)))


def _words(texts: Iterable[str]) -> set[str]:
    """Return the words of texts that no frame has."""
    return {word for text in texts for word in _split(text)} - FRAME_WORDS


def _split(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower().replace("’", ""))
