"""Captions of pictures: which words are the image's, and what is left out."""

import numpy as np
import pytest

from lostjax.data import Pictograms
from lostjax.data.samples.captions import (
    END,
    FRAME,
    FRAMES,
    IMAGE,
    MARKS,
    MOST_TAGS,
    NOTHING,
    PAD,
    START,
    UNKNOWN,
    caption_pictures,
)

NOTES = ("red fox", "red car", "fox of snow", "rare thing")
TAGS = (("animal", "wild"), ("animal",), ("wild", "animal", "red"), ())


def picture(notes=NOTES, tags=TAGS, families=None):
    codes = tuple(map(str, range(len(notes))))
    images = np.zeros((len(notes), 4, 4, 3), np.float32)
    same = ("",) * len(notes)
    return Pictograms(images, codes, families or codes, notes, tags, same, same)


def write(pictures, **more):
    rows = range(len(pictures.codes))
    options = {"vocab_size": 64, "length": 24, "seed": 0} | more
    return caption_pictures(pictures, train_rows=rows, **options)


def read(captions, row):
    """The words of a caption, and what each is of."""
    tokens_T = captions.tokens_NT[row]
    assert tokens_T[0] == START
    end = list(tokens_T).index(END)
    assert (tokens_T[end + 1 :] == PAD).all()
    kinds_T = captions.kinds_NT[row]
    assert kinds_T[end - 1] == FRAME and (kinds_T[end:] == NOTHING).all()
    return [captions.words[token] for token in tokens_T[1:end]], kinds_T[: end - 1]


def test_words_of_annotation_and_tags_are_the_images():
    captions = write(picture())
    words, kinds = read(captions, 1)
    image = [word for word, kind in zip(words, kinds, strict=True) if kind == IMAGE]
    assert image == ["red", "animal"]  # the car is named once, and so unknown
    unknown = words.index("<unknown>")
    assert kinds[unknown] == NOTHING and captions.words[UNKNOWN] == "<unknown>"
    frame = [word for word, kind in zip(words, kinds, strict=True) if kind == FRAME]
    assert " ".join(frame) in [f"{before} {between}" for before, between in FRAMES]
    assert captions.words[: len(MARKS)] == MARKS


def test_a_word_of_the_annotation_that_frames_have_is_the_images():
    captions = write(picture())
    words, kinds = read(captions, 2)
    place = words.index("fox") + 1
    assert words[place] == "of" and kinds[place] == IMAGE
    assert captions.words.index("of") not in captions.said[2]
    said = {captions.words[token] for token in captions.said[2]}
    assert said == {"fox", "red", "animal", "wild"}


def test_families_count_once_for_the_vocabulary():
    captions = write(picture(families=("a", "a", "a", "b")))
    assert not {"red", "fox", "animal"} & set(captions.words)
    with pytest.raises(ValueError, match="vocab_size=20: must be above"):
        write(picture(), vocab_size=20)


def test_captions_are_cut_and_name_few_tags():
    tags = tuple(("animal", "wild", "red", "fox", "big", "small") for _ in NOTES)
    captions = write(picture(tags=tags))
    words, _ = read(captions, 3)
    assert words.count(",") == MOST_TAGS - 1
    short = write(picture(tags=tags), length=5)
    assert short.tokens_NT.shape == (4, 6) and short.kinds_NT.shape == (4, 5)
    np.testing.assert_array_equal(short.tokens_NT, captions.tokens_NT[:, :6])


def test_a_seed_draws_frames_and_tags():
    one, again, other = (write(picture(), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.tokens_NT, again.tokens_NT)
    assert (one.tokens_NT != other.tokens_NT).any()
