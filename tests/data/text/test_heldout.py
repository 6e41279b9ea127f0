"""Held-out and training text are the whole text, and share nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lostjax.data import DataError
from lostjax.data.text.documents import GivenDocuments
from lostjax.data.text.heldout import hold_out
from lostjax.data.text.token_files import TokenFiles

FRACTIONS = st.floats(0.01, 0.5)


def split(texts, fraction):
    train, held = hold_out(GivenDocuments(tuple(texts)), fraction=fraction)
    return list(train), list(held)


@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=60), FRACTIONS)
def test_many_documents_are_dealt_out_whole(texts, fraction):
    train, held = split(texts, fraction)
    if len(texts) * fraction >= 1:
        assert set(train) | set(held) == texts and not set(train) & set(held)
        assert len(held) == round(len(texts) * fraction)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.floats(0.01, 0.2))
def test_few_documents_give_their_ends(texts, fraction):
    train, held = split(texts, fraction)
    assert sorted("".join(train) + "".join(held)) == sorted("".join(texts))
    assert len(held) == len(texts)
    for piece, text in zip(held, texts, strict=True):
        assert text.endswith(piece)


def test_a_single_text_is_cut_after_a_line():
    text = "".join(f"line {i}\n" for i in range(100))
    train, held = split([text], 0.1)
    assert train[0] + held[0] == text
    assert train[0].endswith("\n") and 0.05 < len(held[0]) / len(text) <= 0.1
    assert [len(part[0]) for part in split(["x" * 100], 0.1)] == [90, 10]


def test_the_choice_depends_on_content_alone():
    texts = [f"document {i}" for i in range(100)]
    assert set(split(texts, 0.1)[1]) == set(split(texts[::-1], 0.1)[1])


def test_copies_stay_together():
    texts = [f"document {i % 50}" for i in range(200)]
    train, held = split(texts, 0.05)
    assert held and not set(train) & set(held)
    with pytest.raises(DataError, match="copies"):
        split(["same"] * 40, 0.5)


def test_the_parts_have_their_own_fingerprints():
    documents = GivenDocuments(("a", "b"))
    prints = {
        part.fingerprint
        for fraction in (0.1, 0.2)
        for part in hold_out(documents, fraction=fraction)
    }
    assert len(prints) == 4 and documents.fingerprint not in prints


def test_token_files_give_their_ends(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    parts = hold_out(TokenFiles((path,)), fraction=0.05)
    train, held = (
        np.concatenate(list(part.documents(eos_id=100, vocab_size=101)))
        for part in parts
    )
    assert train.tolist() == list(range(95)) and held.tolist() == list(range(95, 100))
