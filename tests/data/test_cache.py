"""What is kept is there as it was made, or is made again: never something else."""

import os

import numpy as np
import pytest

from lostjax.data import load_tokenizer, pack_documents
from lostjax.data.cache import cached, hash_parts
from lostjax.data.text.documents import GivenDocuments

BYTES = load_tokenizer("bytes")
TEXTS = ["four score and seven years ago", "our fathers"]


def test_a_hash_knows_where_a_part_ends():
    assert hash_parts("ab", "c") != hash_parts("a", "bc") != hash_parts("abc")
    assert hash_parts("ab", "") != hash_parts("ab") == hash_parts(b"ab")


def make_directory(path):
    path.mkdir()
    (path / "a").write_bytes(b"first")
    (path / "b").write_bytes(b"second")


def make_file(path):
    path.write_bytes(b"first")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, zero, cut, remove])
@pytest.mark.parametrize("where", ["tokens.npy", "counts.json", ""])
def test_damaged_tokens_are_made_again_and_that_is_said(
    tmp_path, capsys, damage, where
):
    def pack():
        rows = pack_documents(
            GivenDocuments(TEXTS), BYTES, seq_len=4, cache_dir=tmp_path
        )
        return np.array(rows.stream), rows.n_documents, rows.n_bytes

    stream, *counts = pack()
    pack()
    assert not capsys.readouterr().err
    (seal,) = (tmp_path / "tokens").glob("*.hash")
    damage(seal.with_suffix("") / where if where else seal)
    again, *counts_again = pack()
    np.testing.assert_array_equal(again, stream)
    assert counts_again == counts
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rebuilding it" in said, said
    pack()
    assert not capsys.readouterr().err
    assert len(list((tmp_path / "tokens").iterdir())) == 2, "nothing is left over"


@pytest.mark.parametrize("make", [make_file, make_directory])
def test_a_whole_one_is_not_made_again_and_another_makers_is_taken(
    tmp_path, capsys, make
):
    def make_beside_another(path):
        """Make it while another process does, and is faster."""
        cached(tmp_path / "it", make)
        make(path)

    cached(tmp_path / "it", make_beside_another)
    cached(tmp_path / "it", pytest.fail)
    assert {p.name for p in tmp_path.iterdir()} == {"it", "it.hash"}
    assert not capsys.readouterr().err


def test_what_is_being_made_is_left_alone_though_it_looks_old(tmp_path):
    old = tmp_path / ".making-by-a-dead-process"
    old.mkdir()

    def make_slowly(path):
        for left in tmp_path.glob(".making-*"):
            os.utime(left, (0, 0))
        cached(tmp_path / "other", make_file)
        make_file(path)

    cached(tmp_path / "it", make_slowly)
    assert not old.exists()
    assert (tmp_path / "it").read_bytes() == b"first"


@pytest.mark.parametrize("make", [make_file, make_directory])
def test_bytes_and_hash_are_on_the_disk_before_they_get_their_names(
    tmp_path, monkeypatch, make
):
    """Else a power cut leaves the names, and zeros under them."""
    events = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def note_sync(handle):
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_naming(do):
        def name(old, new):
            files = [old, *old.rglob("*")]
            events.append(("name", [str(file) for file in files]))
            do(old, new)

        return name

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_naming(rename))
    monkeypatch.setattr(os, "replace", note_naming(replace))
    cached(tmp_path / "it", make)
    synced = set()
    for kind, what in events:
        if kind == "sync":
            synced.add(what)
        else:
            assert set(what) <= synced
    assert [kind for kind, _ in events].count("name") == 2
    assert events[-1] == ("sync", str(tmp_path)), "and then the names"
