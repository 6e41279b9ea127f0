"""Packing by counting: every token and every boundary is predicted exactly once."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lostjax.data import DataError, Rows, load_tokenizer, pack_documents
from lostjax.data.cache import _hash_tree
from lostjax.data.rows.stream import join_streams
from lostjax.data.stored_tokens import StoredTokens
from lostjax.data.text.documents import GivenDocuments
from lostjax.data.text.token_files import TokenFiles

BYTES = load_tokenizer("bytes")
EOS = BYTES.eos_id


def rows_of(texts, seq_len):
    """Rows in memory, as packing makes them on disk."""
    stream = [EOS]
    for text in texts:
        stream += [*text.encode(), EOS]
    return Rows(
        stream=np.array(stream, np.uint16),
        seq_len=seq_len,
        vocab_size=257,
        eos_id=EOS,
        n_documents=len(texts),
        n_bytes=sum(len(t.encode()) for t in texts),
        content_hash="",
    )


def reference_rows(texts, seq_len):
    """Segments and positions, one token at a time."""
    inputs = [(t, i) for n, x in enumerate(texts) for i, t in enumerate([EOS, *x])]
    targets = [t for text in texts for t in [*text, EOS]]
    rows = []
    for start in range(0, len(inputs), seq_len):
        row, segment, position = [], 0, 0
        for at in range(start, min(start + seq_len, len(inputs))):
            token, index = inputs[at]
            if index == 0 or at == start:
                segment, position = segment + 1, 0
            row.append((token, targets[at], 1.0, segment, position))
            position += 1
        row += [(EOS, EOS, 0.0, 0, 0)] * (seq_len - len(row))
        rows.append(row)
    return np.array(rows)


@given(
    st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=9),
    st.integers(1, 8),
)
def test_rows_equal_the_slow_reference(texts, seq_len):
    rows = rows_of(texts, seq_len)
    want = reference_rows([list(text.encode()) for text in texts], seq_len)
    assert rows.n_rows == len(want)
    got = rows.take(np.arange(rows.n_rows))
    for i, leaf in enumerate(got):
        np.testing.assert_array_equal(leaf, want[:, :, i])


@settings(max_examples=30)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=9))
def test_every_token_and_boundary_is_predicted_once(tmp_path_factory, texts):
    cache = tmp_path_factory.mktemp("cache")
    rows = pack_documents(GivenDocuments(texts), BYTES, seq_len=7, cache_dir=cache)
    full = [text for text in texts if text]
    assert rows.n_documents == len(full)
    assert rows.n_bytes == sum(len(text.encode()) for text in full)
    assert rows.n_predicted == rows.n_bytes + len(full)
    got = rows.take(np.arange(rows.n_rows))
    assert got.weights_BT.sum() == rows.n_predicted
    real = got.weights_BT > 0
    assert got.targets_BT[real].tolist() == [
        token for text in full for token in [*text.encode(), EOS]
    ]
    assert got.tokens_BT[real].tolist() == [
        token for text in full for token in [EOS, *text.encode()]
    ]


def test_padding_rows_weigh_nothing():
    got = rows_of(["abc"], 2).take(np.array([-1, 0]))
    assert got.weights_BT.tolist() == [[0, 0], [1, 1]]
    assert got.segments_BT[0].tolist() == [0, 0]


def test_the_cache_serves_every_row_length(tmp_path, monkeypatch):
    documents = GivenDocuments(["abcdefgh", "xyz"])
    short = pack_documents(documents, BYTES, seq_len=2, cache_dir=tmp_path)
    monkeypatch.setattr("lostjax.data.rows.packing._write", None)
    long = pack_documents(documents, BYTES, seq_len=5, cache_dir=tmp_path)
    assert isinstance(long.stream, StoredTokens)
    np.testing.assert_array_equal(short.stream, long.stream)
    assert short.content_hash != long.content_hash
    with pytest.raises(TypeError):  # other text has to be packed
        pack_documents(
            GivenDocuments(["abcdefgh", "xyZ"]), BYTES, seq_len=2, cache_dir=tmp_path
        )


def test_the_stream_is_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("lostjax.data.rows.packing._CHUNK_CHARACTERS", 3)
    texts = ["abcd", "e", "f", "ghi", "j"]
    rows = pack_documents(GivenDocuments(texts), BYTES, seq_len=4, cache_dir=tmp_path)
    np.testing.assert_array_equal(rows.stream, rows_of(texts, 4).stream)


def test_token_files_are_packed_as_their_text_is(tmp_path):
    texts = ["first é", "second"]
    rows = pack_documents(GivenDocuments(texts), BYTES, seq_len=4, cache_dir=tmp_path)
    np.save(tmp_path / "a.npy", rows.stream)
    files = TokenFiles((tmp_path / "a.npy",))
    again = pack_documents(files, BYTES, seq_len=4, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.stream, rows.stream)
    assert (again.n_bytes, again.n_documents) == (rows.n_bytes, 2)


def test_streams_join_with_one_boundary():
    joined = join_streams([rows_of(["ab"], 4), rows_of(["c", "d"], 4)])
    assert joined.tolist() == [EOS, 97, 98, EOS, 99, EOS, 100, EOS]


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    class Broken(GivenDocuments):
        def __iter__(self):
            yield "fine"
            raise KeyboardInterrupt

    monkeypatch.setattr("lostjax.data.rows.packing._CHUNK_CHARACTERS", 1)
    with pytest.raises(KeyboardInterrupt):
        pack_documents(Broken(["a"]), BYTES, seq_len=4, cache_dir=tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lostjax.data.rows.packing._write_header", full)
    with pytest.raises(DataError, match=r"No space left.*--data.cache-dir"):
        pack_documents(GivenDocuments(["a"]), BYTES, seq_len=4, cache_dir=tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache cannot be written"):
        pack_documents(
            GivenDocuments(["a"]), BYTES, seq_len=4, cache_dir=tmp_path / "file"
        )


def test_a_broken_cache_is_named(tmp_path):
    documents = GivenDocuments(["abc"])
    pack_documents(documents, BYTES, seq_len=4, cache_dir=tmp_path)
    (seal,) = (tmp_path / "tokens").glob("*.hash")
    entry = seal.with_suffix("")
    (entry / "tokens.npy").write_bytes(b"\x93NUMPY")
    seal.write_text(_hash_tree(entry))  # what is damaged by accident is made again
    with pytest.raises(DataError, match="broken cache"):
        pack_documents(documents, BYTES, seq_len=4, cache_dir=tmp_path)


@pytest.mark.parametrize("vocab_size, bytes_each", [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_ids_are_kept_in_as_few_bytes_as_hold_the_largest(
    vocab_size, bytes_each, tmp_path
):
    class Wide:
        eos_id, fingerprint = 0, "wide"

        def encode_batch(self, texts):
            return [np.array([vocab_size - 1, 7], np.uint32) for _ in texts]

        def decode(self, ids):
            raise NotImplementedError

        def save(self, path):
            raise NotImplementedError

    Wide.vocab_size = vocab_size
    rows = pack_documents(
        GivenDocuments(("some text",)), Wide(), seq_len=2, cache_dir=tmp_path
    )
    assert np.asarray(rows.stream).tolist() == [0, vocab_size - 1, 7, 0]
    assert rows.stream.dtype.itemsize == bytes_each


def test_cached_tokens_that_are_cut_while_they_are_used_are_one_line(tmp_path):
    documents = GivenDocuments(["abcdefgh" * 20, "xyz"])
    rows = pack_documents(documents, BYTES, seq_len=4, cache_dir=tmp_path)
    last = np.array([rows.n_rows - 1])
    before = rows.take(last).tokens_BT.tolist()
    (path,) = tmp_path.rglob("tokens.npy")
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(DataError, match=r"tokens.npy: was cut while it was being read"):
        rows.take(last)
    assert rows.take(np.array([0])).weights_BT.all()
    again = pack_documents(documents, BYTES, seq_len=4, cache_dir=tmp_path)
    assert again.take(last).tokens_BT.tolist() == before
