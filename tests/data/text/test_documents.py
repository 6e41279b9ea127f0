"""Broken text is named by file, line and byte; it never ends in a traceback."""

import bz2
import gzip
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lostjax.data import DataError
from lostjax.data.text import documents, unreadable
from lostjax.data.text.documents import Chain, GivenDocuments, JsonLines, TextFiles


def test_text_that_is_not_utf8_is_named_with_its_offset(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("ab é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt: .*byte 0xe9 at offset 3\)"):
        list(TextFiles((path,)))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "windows-1252"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "utf-16"),
        ("\N{IDEOGRAPHIC COMMA}", "shift-jis"),
    ],
)
def test_the_command_against_another_encoding_works(tmp_path, text, encoding):
    path = tmp_path / "it's.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError) as caught:
        list(TextFiles((path,)))
    command = str(caught.value).partition("for example with ")[2]
    if encoding == "shift-jis":
        assert "-f ITS-ENCODING " in command
        return
    if shutil.which("iconv") is None:
        pytest.skip("no iconv here")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "NEW").read_text("utf-8") == text


def test_all_bad_files_are_in_one_message(tmp_path):
    names = [f"l{number:02}.txt" for number in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(b"ab \xe9" if name > "l00.txt" else b"fine")
    (tmp_path / "x.jsonl").write_text('{"text": "fine"}\n{')
    texts = TextFiles(tuple(tmp_path / name for name in names[:3]))
    both = Chain((texts, JsonLines((tmp_path / "x.jsonl",))))
    with pytest.raises(DataError) as caught:
        list(both)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said.startswith(
        "3 files cannot be read as text: l01.txt: not UTF-8 (byte 0xe9 at offset 3); "
        "l02.txt: not UTF-8 (byte 0xe9 at offset 3); x.jsonl:2: not JSON: "
    )
    assert said.endswith(
        "; the first: convert it, for example with iconv -f "
        "WINDOWS-1252 -t UTF-8 l01.txt > NEW"
    )
    many = Chain((TextFiles(tuple(tmp_path / name for name in names)), both))
    with pytest.raises(DataError, match=r"^10 files or more .*l10.txt") as caught:
        list(many)
    assert "l11.txt" not in str(caught.value)


def test_the_search_for_more_bad_files_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(unreadable, "MOST_READ", 10)
    paths = [tmp_path / f"{number}.txt" for number in range(4)]
    for path, data in zip(paths, (b"\xe9", b"x" * 20, b"\xe9", b"\xe9"), strict=True):
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"^1 files? or more .*0.txt: .*") as caught:
        list(TextFiles(tuple(paths)))
    assert "2.txt" not in str(caught.value)


def test_a_file_of_another_kind_is_told_what_it_is(tmp_path):
    for name, start, message in (
        ("a.txt", b"%PDF-1.7\n\xe9", "a PDF, not text; .* with pdftotext .*a.txt"),
        ("a.docx", b"PK\3\4", "an office document, not text; save it as plain text"),
        ("a.doc", b"\xd0\xcf\x11\xe0", "an office document"),
    ):
        (tmp_path / name).write_bytes(start)
        with pytest.raises(DataError, match=f"{name}: {message}"):
            list(TextFiles((tmp_path / name,)))


def test_files_that_vanish_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.txt: cannot be read: No such file"):
        list(TextFiles((tmp_path / "gone.txt",)))
    with pytest.raises(DataError, match=r"gone.txt: cannot be read"):
        TextFiles((tmp_path / "gone.txt",)).fingerprint  # noqa: B018


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b'"text"', "not a JSON object but a str"),
        (b"null", "not a JSON object but null"),
        (b'{"body": "x"}', r"no field 'text' \(its fields: 'body'\)"),
        (b"{}", r"its fields: none"),
        (b'{"text": 3}', "must be a string, not a int"),
        (b'{"text": null}', "must be a string, not null"),
        (b'{"text": "\xff"}', "not UTF-8 .*offset 10"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 200_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3: .*" + message) as caught:
        list(JsonLines((path,)))
    assert "\n" not in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_random_bytes_are_text_or_a_data_error(tmp_path, data):
    path = tmp_path / "random.jsonl"
    for content in (data, b'{"text": ' + data + b"}"):
        path.write_bytes(content)
        for texts in (JsonLines((path,)), TextFiles((path,))):
            try:
                for text in texts:
                    text.encode("utf-8")
            except DataError as error:
                assert str(path) in str(error)


@given(st.lists(st.text(min_size=1), max_size=5))
def test_jsonl_gives_back_what_was_written(texts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8"
        )
        assert list(JsonLines((path,))) == texts


def test_fingerprints_follow_content_order_and_field(tmp_path):
    one, two, same = (tmp_path / name for name in ("1.txt", "2.txt", "3.txt"))
    one.write_text("one")
    two.write_text("two")
    same.write_text("one")
    prints = [
        TextFiles((one, two)).fingerprint,
        TextFiles((two, one)).fingerprint,
        TextFiles((one,)).fingerprint,
        JsonLines((one,)).fingerprint,
        JsonLines((one,), "body").fingerprint,
        Chain((TextFiles((one,)), TextFiles((two,)))).fingerprint,
        GivenDocuments(("one", "two")).fingerprint,
        GivenDocuments(("onet", "wo")).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert TextFiles((one,)).fingerprint == TextFiles((same,)).fingerprint


@pytest.mark.parametrize(
    ("start", "command"),
    [(gzip.compress(b"text"), "gunzip"), (bz2.compress(b"text"), "bunzip2")],
    ids=["gzip", "bzip2"],  # the first holds the time
)
def test_a_compressed_file_is_told_what_unpacks_it(tmp_path, start, command):
    path = tmp_path / "a.txt"
    path.write_bytes(start)
    for texts in (JsonLines((path,)), TextFiles((path,))):
        with pytest.raises(DataError, match=f"a.txt: compressed.* with {command}$"):
            list(texts)


def test_a_line_is_read_up_to_a_bound(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "' + b"x" * 100)
    monkeypatch.setattr(documents, "LONGEST_LINE", 50)
    with pytest.raises(DataError, match=r"a.jsonl:2: the line has more than 50 bytes"):
        list(JsonLines((path,)))
