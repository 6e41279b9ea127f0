"""The grammar of sources, and one clear line for every way to get it wrong."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lostjax.data import DataError, open_corpus
from lostjax.data.text.sources import parse_source


def texts(corpus):
    return list(corpus.train), list(corpus.heldout)


@pytest.fixture
def books(tmp_path):
    """Thirty short books below a directory, two levels deep."""
    for i in range(30):
        folder = tmp_path / "books" / ("deep" if i % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"b{i:02}.txt").write_text(f"book {i}\n")
    return tmp_path / "books"


def test_years_of_sotu_are_a_source():
    everything = open_corpus("sotu")
    some = open_corpus("sotu:1961-1980")
    assert 20 < len(list(some.train)) < 50  # some years have two
    assert set(some.train) < set(everything.train)
    assert list(some.heldout) == list(everything.heldout)
    (message,) = open_corpus("sotu:1862").train
    assert "disenthrall ourselves" in message
    recent = open_corpus("sotu:1790-1800", heldout="sotu:2019-2020")
    assert len(list(recent.heldout)) == 2
    late = open_corpus("sotu:2005-2014")
    assert set(late.train) == set(open_corpus("sotu:2005-2010").train)


def test_years_that_are_held_out_hold_out_their_own_tails():
    """Of five messages (2017 has none) not one is a twentieth."""
    train, heldout = texts(open_corpus("sotu:2015-2020"))
    whole = [start + tail for start, tail in zip(train, heldout, strict=True)]
    assert whole == list(open_corpus("sotu").heldout)[4:9]
    assert 0.03 < len("".join(heldout)) / len("".join(whole)) < 0.07


def test_sotu_is_split_by_year():
    corpus = open_corpus("sotu")
    train, heldout = texts(corpus)
    assert (len(train), len(heldout)) == (236, 13)
    assert sum(len(text.encode()) for text in heldout) == 551371
    assert train[0].startswith("Fellow-Citizens of the Senate")
    assert "Gabby" in heldout[0]  # the message of January 2011


def test_a_directory_is_all_text_below_it_in_order(books):
    whole = list(open_corpus(str(books), heldout="sotu").train)
    assert len(whole) == 30
    assert whole[0] == "book 0\n" and whole[1] == "book 2\n"
    assert whole[-1] == "book 29\n"  # deep/ comes after b28.txt


def test_a_directory_is_read_whole_or_says_what_it_passed_over(tmp_path, capsys):
    for name, text in {
        "b.txt": "plain",
        "a/c.jsonl": '{"text": "one", "body": "x"}\n{"text": "two", "body": "y"}\n',
        "a/empty.txt": "",
        "README.md": "not read",
        "tokens.npy": "not read",
        "x.npy": "not read",
        ".git/HEAD": "hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    corpus = open_corpus(str(tmp_path), heldout="sotu")
    assert list(corpus.train) == ["plain", "one", "two"]
    open_corpus(str(tmp_path), heldout="sotu")
    assert capsys.readouterr().err == (
        f"{tmp_path}: 2 .txt and .jsonl files are read; empty: a/empty.txt; passed "
        f"over: README.md, tokens.npy, x.npy (to read .md as text: "
        f"'{tmp_path},{tmp_path}/**/*.md')\n"
    )
    with_notes = open_corpus(f"{tmp_path},{tmp_path}/**/*.md", heldout="sotu")
    assert list(with_notes.train) == ["plain", "one", "two", "not read"]
    by_field = open_corpus(f"{tmp_path}#body", heldout="sotu")
    assert list(by_field.train) == ["plain", "x", "y"]
    assert by_field.train.fingerprint != corpus.train.fingerprint
    with pytest.raises(DataError, match="c.jsonl is also in the training text"):
        open_corpus(str(tmp_path), heldout=f"{tmp_path}/a/c.jsonl")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.npy").write_text("")
    with pytest.raises(DataError, match="no .txt .*; passed over: a.npy$"):
        open_corpus(f"{tmp_path}/only")


def test_a_folder_from_a_mac_or_from_windows_is_read(tmp_path, capsys):
    for name, text in {
        "LETTER.TXT": b"letter",
        "Notes.JSONL": b'{"text": "notes"}',
        "._letter.txt": b"\0\5\x16\7\xff",
        ".hidden.txt": b"hidden",
        ".cache/a.txt": b"hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    train = open_corpus(str(tmp_path), heldout="sotu").train
    assert list(train) == ["letter", "notes"]
    assert capsys.readouterr().err == ""
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.int32))
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    assert open_corpus(f"{tmp_path}/X.NPY").parts[0].documents.paths


def test_many_files_that_are_passed_over_are_counted(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\0")
    open_corpus(str(tmp_path), heldout="sotu")
    assert capsys.readouterr().err == (
        f"{tmp_path}: 1 .txt and .jsonl files are read; passed over: 0.png, 1.png, "
        "2.png, 3.png, 4.png and 4 more\n"
    )


def test_a_plain_list_is_one_text_after_the_other(tmp_path, books):
    other = tmp_path / "other.txt"
    other.write_text("one line\n" * 40)
    source = f"{books}/deep, {other}"
    corpus = open_corpus(source)
    (part,) = corpus.parts
    train, heldout = texts(corpus)
    alone = [open_corpus(name) for name in source.split(", ")]
    assert train == [text for each in alone for text in each.train]
    assert heldout == [text for each in alone for text in each.heldout]
    assert list(part.documents) == train and part.name == f"{books}/deep,{other}"
    assert len(list(open_corpus(source, heldout="sotu").train)) == 16
    assert len(list(open_corpus("sotu", heldout=source).heldout)) == 16
    own = open_corpus(f"sotu:2009-2010,{other}")  # sotu has a held-out part of its own
    assert len(list(own.heldout)) == 13 + 1


def test_a_list_of_token_files_is_one_text(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.arange(100))
    (part,) = open_corpus(f"{tmp_path}/a.npy,{tmp_path}/b.npy").parts
    assert [path.name for path in part.documents.paths] == ["a.npy", "b.npy"]
    assert part.documents.stop == 0.95


def test_a_glob_takes_what_matches(books):
    flat = open_corpus(f"{books}/b*.txt", heldout="sotu")
    deep = open_corpus(f"{books}/**/b*.txt", heldout="sotu")
    assert len(list(flat.train)) == 15
    assert len(list(deep.train)) == 30


def test_a_path_that_exists_is_that_path(tmp_path):
    odd = tmp_path / "0.5*a,b#c.txt"
    odd.write_text("some text")
    assert list(open_corpus(str(odd), heldout="sotu").train) == ["some text"]


def test_documents_are_read_again_on_every_pass(books):
    train = open_corpus(str(books)).train
    assert list(train) == list(train)


def test_jsonl_takes_the_field_that_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "body": "two"}\n\n{"text": "", "body": "x"}\n')
    assert list(open_corpus(str(path), heldout="sotu").train) == ["one"]
    assert list(open_corpus(f"{path}#body", heldout="sotu").train) == ["two", "x"]


def test_a_file_of_the_kernel_has_text_whatever_its_size():
    path = Path("/proc/cpuinfo")
    if not path.exists():
        pytest.skip("no /proc here")
    assert path.stat().st_size == 0
    assert parse_source(str(path))


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match="a.txt is not a regular file"):
        open_corpus(str(tmp_path / "a.txt"))


def test_windows_line_ends_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb")
    assert list(open_corpus(str(tmp_path / "a.txt"), heldout="sotu").train) == [
        "a\r\nb"
    ]


def test_mixtures_have_weights():
    parts = parse_source("0.7*sotu, .3*books/*.txt,2*a#b.jsonl")
    assert [(part.weight, part.names) for part in parts] == [
        (Fraction(7, 10), ("sotu",)),
        (Fraction(3, 10), ("books/*.txt",)),
        (Fraction(2), ("a#b.jsonl",)),
    ]
    assert parse_source("*.txt")[0].names == ("*.txt",)
    assert parse_source("./2*.txt")[0].names == ("./2*.txt",)


def test_a_mixture_holds_out_of_each_part(books):
    corpus = open_corpus(f"0.5*sotu,0.5*{books}")
    assert len(corpus.parts) == 2 and len(corpus.heldout_parts) == 2
    assert len(list(corpus.heldout)) == 13 + 2


def test_a_heldout_source_is_held_out_whole(books):
    corpus = open_corpus("sotu", heldout=str(books))
    assert len(list(corpus.train)) == 249
    assert len(list(corpus.heldout)) == 30


def write_bad_files(folder):
    (folder / "empty.txt").write_text("")
    (folder / "good.txt").write_text("text")
    (folder / "good.jsonl").write_text('{"text": "text"}')
    np.save(folder / "float.npy", np.ones(3))
    np.save(folder / "ids.npy", np.arange(9))
    (folder / "void").mkdir()
    (folder / "void" / "a.txt").write_text("")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "nothing").mkdir()
    (folder / "tfds").mkdir()
    (folder / "tfds" / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "empty"),
        ("sotus", "did you mean sotu"),
        ("SOTU.", "a source is sotu, tfds:NAME"),
        ("sotu:1600", "the package contains 1790 to"),
        ("sotu:90", "sotu:FIRST-LAST"),
        ("sotu:1980-1961", "sotu:FIRST-LAST"),
        ("{}/god.txt", "did you mean .*good.txt"),
        ("{}/*.text", "matches no file"),
        ("{}/nothing", "no .txt or .jsonl file"),
        ("{}/empty.txt", "empty.txt: empty"),
        ("{}/empty.bin", "empty"),
        ("{}/good.*", "several kinds"),
        ("{}/good.txt#body", "only .jsonl has fields"),
        ("{}/good.jsonl#", "after # is empty"),
        ("{}/float.npy", "must be integers, not float64"),
        ("{}/tfds", "write tfds:"),
        ("tfds:", "needs a name"),
        ("tfds:{}/nothing", "no prepared data set"),
        ("tfds:no_such_set", "no_such_set: neither"),
        ("sotu,,{}/good.txt", "a part between commas is empty"),
        ("{}/good.txt,{}/good.*t", "good.txt is in two of its parts"),
        ("{}/good.txt,{}/ids.npy", "text and tokens cannot be one text"),
        ("sotu,0.5*{}/good.txt", "'sotu' has no weight.*, or no weight at all"),
        ("{}/void", "void: its .txt and .jsonl files are empty"),
        ("0.5*sotu,{}/good.txt", "good.txt' has no weight"),
        ("0*sotu,1*{}/good.txt", "weight 0 must be above 0"),
        ("9" * 5000 + "*sotu,1*sotu", "has no weight"),
        ("1*", "no such|no weight|1\\*: "),
    ],
)
def test_a_bad_source_is_one_clear_line(tmp_path, source, message):
    write_bad_files(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_corpus(source.replace("{}", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_held_out_files_may_not_be_trained_on(books):
    with pytest.raises(DataError, match="b00.txt is also in the training text"):
        open_corpus(str(books), heldout=f"{books}/b00.txt")


@pytest.mark.parametrize(
    ("heldout", "message"),
    [
        ("0.9", "must lie in"),
        ("0", "must lie in"),
        ("-1", "must lie in"),
        ("nan", "must lie in"),
        ("sotu", "also the source"),
        ("no/such.txt", "heldout: no/such.txt"),
    ],
)
def test_a_bad_heldout_is_one_clear_line(heldout, message):
    with pytest.raises(DataError, match=message):
        open_corpus("sotu", heldout=heldout)
