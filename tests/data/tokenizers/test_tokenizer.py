"""What is encoded comes back, and text never becomes the end-of-text token."""

import json
import os
import sys

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from lostjax.data import (
    DataError,
    Tokenizer,
    count_tokens,
    load_saved_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from lostjax.data.tokenizers import bpe as bpe_tokenizer
from lostjax.data.tokenizers import tokenizer as tokenizer_module
from lostjax.data.tokenizers.panics import refusing_panics

PROSE = (
    "It was the best of times, it was the worst of times.\n\n"
    "  He said: 'we don't know' 1,234 times\t(naïvely) <|endoftext|> – 中文 🙂\n"
) * 20


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return load_tokenizer("bpe:300", [PROSE], cache_dir=tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("sp") / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE.splitlines()),
        model_prefix=str(prefix),
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def decode_encode(tokenizer, text):
    (ids,) = tokenizer.encode_batch([text])
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
    assert not (ids == tokenizer.eos_id).any()
    return tokenizer.decode(ids)


def test_a_saved_byte_tokenizer_is_the_byte_tokenizer(tmp_path, bpe):
    save_tokenizer(load_tokenizer("bytes"), tmp_path)
    saved = load_saved_tokenizer(tmp_path)
    assert saved.fingerprint == load_tokenizer("bytes").fingerprint
    save_tokenizer(bpe, tmp_path)
    assert load_saved_tokenizer(tmp_path).fingerprint == bpe.fingerprint


@pytest.mark.parametrize("spec", ["bpe", "bytes"])
@settings(max_examples=200)
@given(text=st.text() | st.text(alphabet="a \n<|endoftx>'\u00a0é"))
def test_every_text_comes_back(bpe, spec, text):
    tokenizer = bpe if spec == "bpe" else load_tokenizer("bytes")
    assert decode_encode(tokenizer, text) == text


@pytest.mark.parametrize("spec", ["bpe", "bytes"])
def test_written_out_end_of_text_is_text(bpe, spec):
    tokenizer = bpe if spec == "bpe" else load_tokenizer("bytes")
    text = "<|endoftext|> a<|endoftext|>b"
    assert decode_encode(tokenizer, text) == text
    (ids,) = tokenizer.encode_batch(["ab"])
    eos = tokenizer.eos_id
    assert tokenizer.decode([eos, *ids.tolist(), eos]) == "ab"


def test_bpe_learns_from_its_text(bpe):
    assert isinstance(bpe, Tokenizer)
    assert bpe.vocab_size == 300
    (ids,) = bpe.encode_batch([PROSE])
    assert ids.size < 0.8 * len(PROSE.encode())


def test_bpe_is_trained_once_and_the_same_every_time(tmp_path, monkeypatch):
    first = load_tokenizer("bpe:300", [PROSE], cache_dir=tmp_path / "a")
    again = load_tokenizer("bpe:300", [PROSE], cache_dir=tmp_path / "b")
    assert first.fingerprint == again.fingerprint
    monkeypatch.setattr(tokenizer_module, "train_bpe", None)
    assert (
        load_tokenizer("bpe:300", [PROSE], cache_dir=tmp_path / "a").fingerprint
        == first.fingerprint
    )
    with pytest.raises(TypeError):  # other text has to be trained on
        load_tokenizer("bpe:300", [PROSE + "!"], cache_dir=tmp_path / "a")


def test_long_texts_are_cut_without_changing_a_token(bpe, monkeypatch):
    odd = PROSE + "\n\n\n \n  x \r\n\n" + "y" * 500 + "\n" + PROSE
    (whole,) = bpe.encode_batch([odd])
    for length in (1, 7, 64, 501):
        monkeypatch.setattr(bpe_tokenizer, "_LONG", length)
        assert len(bpe._pieces(odd)) > 1
        (pieces,) = bpe.encode_batch([odd])
        np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("spec", ["bpe", "bytes", "sentencepiece"])
def test_a_saved_tokenizer_gives_the_same_ids(tmp_path, bpe, sentencepiece_file, spec):
    tokenizer = {"bpe": lambda: bpe, "bytes": lambda: load_tokenizer("bytes")}.get(
        spec, lambda: load_tokenizer(str(sentencepiece_file))
    )()
    path = save_tokenizer(tokenizer, tmp_path)
    loaded = load_saved_tokenizer(tmp_path)
    assert path.parent == tmp_path and path.is_file()
    assert (loaded.vocab_size, loaded.eos_id) == (
        tokenizer.vocab_size,
        tokenizer.eos_id,
    )
    for ids, want in zip(
        loaded.encode_batch([PROSE, ""]),
        tokenizer.encode_batch([PROSE, ""]),
        strict=True,
    ):
        np.testing.assert_array_equal(ids, want)
    assert loaded.decode(want) == tokenizer.decode(want)


def test_saving_twice_keeps_the_fingerprint(tmp_path, bpe):
    save_tokenizer(bpe, tmp_path)
    assert load_saved_tokenizer(tmp_path).fingerprint == bpe.fingerprint


def test_sentencepiece_files_are_read(sentencepiece_file):
    tokenizer = load_tokenizer(str(sentencepiece_file))
    assert isinstance(tokenizer, Tokenizer)
    assert decode_encode(tokenizer, "it was the best") == "it was the best"


def test_sentencepiece_that_is_not_installed_is_named(sentencepiece_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"pip install 'lostjax\[sentencepiece\]'"):
        load_tokenizer(str(sentencepiece_file))


def test_a_file_may_call_its_end_of_text_otherwise(tmp_path):
    inner = HuggingFaceTokenizer(models.WordLevel({"a": 0, "</s>": 5, "?": 1}, "?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "words.json"))
    tokenizer = load_tokenizer(str(tmp_path / "words.json"))
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (5, 6)
    assert tokenizer.encode_batch(["a b a"])[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bpe:256", "from 257"),
        ("bpe:many", "must be an integer"),
        ("bpe:", "must be an integer"),
        ("bpe:²", "must be an integer"),
        ("bpe:" + "9" * 5000, r"9\.\.\.': SIZE of bpe:SIZE must be an integer"),
        ("byte", "did you mean bytes"),
        ("bpe4096", "did you mean bpe:4096"),
        ("{}/none.json", "existing tokenizer.json"),
        ("~nosuchuser/t.json", "existing tokenizer.json"),
        ("{}/broken.json", "broken.json: not a tokenizer.json"),
        ("{}/broken.model", "broken.model: not a SentencePiece model"),
        ("{}/endless.json", "endless.json: has none of the end-of-text tok"),
    ],
)
def test_a_bad_tokenizer_is_one_clear_line(tmp_path, spec, message):
    (tmp_path / "broken.json").write_text('{"version": ')
    (tmp_path / "broken.model").write_bytes(b"\x00\x01")
    HuggingFaceTokenizer(models.WordLevel({"a": 0}, "a")).save(
        str(tmp_path / "endless.json")
    )
    with pytest.raises(DataError, match=message) as caught:
        load_tokenizer(spec.replace("{}", str(tmp_path)), [PROSE], cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_counted_without_text(tmp_path):
    assert count_tokens("bpe:4096") == 4096 and count_tokens("bytes") == 257
    bpe_tokenizer.train_bpe(300, [PROSE]).save(tmp_path / "t.json")
    assert count_tokens(str(tmp_path / "t.json")) == 300
    with pytest.raises(DataError, match="SIZE of bpe:SIZE"):
        count_tokens("bpe:" + "9" * 5000)


def words_json(folder):
    """A tokenizer.json as text, whose end-of-text token has the id 1."""
    words = models.WordLevel({"a": 0, "</s>": 1, "?": 2}, "?")
    HuggingFaceTokenizer(words).save(str(folder / "t.json"))
    return json.dumps(json.loads((folder / "t.json").read_text()))


@pytest.mark.parametrize("number", [65_536, 400_000_000, 4_294_967_290, 10**30])
def test_an_id_far_above_the_number_of_tokens_is_refused(tmp_path, number):
    """The library would make a table of so many rows, and end the process."""
    text = words_json(tmp_path).replace('"</s>": 1', f'"</s>": {number}')
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=f"t.json: id {number} is too large") as caught:
        load_tokenizer(str(tmp_path / "t.json"))
    assert "\n" not in str(caught.value)


def test_an_id_with_gaps_below_is_taken(tmp_path):
    text = words_json(tmp_path).replace('"</s>": 1', '"</s>": 65535')
    (tmp_path / "t.json").write_text(text)
    assert load_tokenizer(str(tmp_path / "t.json")).vocab_size == 65_536


def test_the_library_gets_the_ids_that_were_looked_at(tmp_path):
    """Of a name that comes twice the last counts, whoever reads it."""
    twice = '"</s>": 4294967290, "</s>": 1'
    (tmp_path / "t.json").write_text(words_json(tmp_path).replace('"</s>": 1', twice))
    assert load_tokenizer(str(tmp_path / "t.json")).vocab_size == 3


@pytest.mark.parametrize("number", [70_000, 4_294_967_290])
def test_an_added_token_far_above_is_refused(tmp_path, bpe, number):
    path = bpe.save(tmp_path / "t.json")
    values = json.loads(path.read_text())
    values["added_tokens"][0]["id"] = number
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"id {number} is too large: for 301 tokens"):
        load_tokenizer(str(path))


def test_no_text_trains_no_tokenizer(tmp_path):
    for documents in ([], [""]):
        with pytest.raises(DataError, match="no text to train on"):
            load_tokenizer("bpe:300", documents, cache_dir=tmp_path)
    with pytest.raises(DataError, match="needs text"):
        load_tokenizer("bpe:300", cache_dir=tmp_path)
    assert not list((tmp_path / "tokenizers").iterdir())


BACKTRACKING = {
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    },
    "normalizer": {
        "type": "Replace",
        "pattern": {"Regex": "(a|a)*$"},
        "content": "x",
    },
}


@pytest.mark.parametrize("part", BACKTRACKING)
def test_a_rule_that_backtracks_without_end_is_one_line(bpe, tmp_path, part, capfd):
    values = json.loads(bpe.save(tmp_path / "crafted.json").read_text())
    values[part] = BACKTRACKING[part]
    (tmp_path / "crafted.json").write_text(json.dumps(values))
    tokenizer = load_tokenizer(str(tmp_path / "crafted.json"))
    with pytest.raises(DataError, match=r"crafted\.json: a rule of this tok") as said:
        tokenizer.encode_batch(["a" * 40 + "b"])
    assert "\n" not in str(said.value)
    assert tokenizer.encode_batch(["b"])[0].size  # standard error is there again
    print("as ever", file=sys.stderr)
    assert capfd.readouterr().err == "as ever\n"


def test_what_others_print_while_a_rule_may_panic_is_printed_after_it(capfd):
    with refusing_panics("t"):
        os.write(2, b"native\n")
        assert not capfd.readouterr().err
    assert capfd.readouterr().err == "native\n"
    with pytest.raises(KeyError), refusing_panics("t"):
        os.write(2, b"native\n")
        raise KeyError
    assert capfd.readouterr().err == "native\n"


def test_a_damaged_tokenizer_of_a_run_is_refused_and_written_again(
    bpe, tmp_path, capsys
):
    path = save_tokenizer(bpe, tmp_path)
    whole, date = path.read_bytes(), path.stat().st_mtime_ns
    assert save_tokenizer(bpe, tmp_path) == path
    assert path.stat().st_mtime_ns == date, "what is whole is left alone"
    damaged = whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]
    path.write_bytes(damaged)
    for load in (
        lambda: load_saved_tokenizer(tmp_path),
        lambda: load_tokenizer(str(path)),
    ):
        with pytest.raises(DataError, match=r"tokenizer\.json: is damaged") as said:
            load()
        assert "\n" not in str(said.value)
    save_tokenizer(bpe, tmp_path)
    said = capsys.readouterr().err
    assert "tokenizer.json: is damaged: kept as" in said and said.count("\n") == 1
    assert path.read_bytes() == whole
    assert (tmp_path / "tokenizer.json.damaged").read_bytes() == damaged
    (tmp_path / "tokenizer.json.hash").unlink()  # as an earlier version left it
    assert load_saved_tokenizer(tmp_path).fingerprint == bpe.fingerprint
